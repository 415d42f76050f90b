"""Compressed files: whole nets that come back exactly, what their posterior decides, and files that are refused."""

import copy
import hashlib
import itertools
import json
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from bayesprune.patterns import Block, Channel
from bayesprune.sparse import BSR, CSR, Codebook, Dense, FileError, SparseLinear, compressed, export, load, nbytes, save
from bayesprune.sparse.compact import compact
from bayesprune.sparse.layers.variances import carry_variances, variances_of
from bayesprune.sparse.saving.coding import Streams, pack, unpack
from bayesprune.sparse.saving.coding.codebook import codebook_of
from bayesprune.sparse.saving.coding.dictionary import DICTIONARY
from bayesprune.sparse.saving.coding.kmeans import best_levels


def quiet_export(net, masks, example, form):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export(net, {}, masks, example=example, formats={"*": form} if not isinstance(form, dict) else form)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        self.fc = nn.Linear(32, 32)
        self.head = nn.Linear(32, 40, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.tiny = nn.Parameter(torch.tensor([1e-9, 3e-9, 0.0]))
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.register_buffer("places", torch.arange(1000))
        self.register_buffer("wave", torch.polar(torch.ones(3), torch.arange(3.0)), persistent=False)

    def forward(self, tokens):
        return self.head(torch.relu(self.fc(self.embed(tokens)))) * self.scale


def nets():
    image, tokens = torch.randn(2, 4, 6, 6), torch.randn(2, 5, 32)
    vision = nn.Sequential(
        *(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Linear(32, 9)),
    )
    encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return {
        "csr": (lambda: vision, image, CSR()),
        "bsr": (lambda: vision, image, BSR(8, 4)),
        "ragged": (lambda: vision, image, BSR(3, 7)),
        "eight bits": (lambda: vision, image, {"*": CSR(bits=8), "6": BSR(8, 4, bits=8), "9": CSR(bits=4)}),
        "attention": (lambda: nn.TransformerEncoder(encoder, 2), tokens, CSR()),
        "split": (lambda: nn.MultiheadAttention(32, 4, kdim=16, vdim=16, batch_first=True), None, CSR()),
        "recurrent": (lambda: nn.LSTM(32, 16, 2, batch_first=True, bidirectional=True), tokens, CSR()),
        "tied": (Tied, torch.randint(0, 40, (2, 5)), CSR()),
    }


NETS = "csr", "bsr", "ragged", "eight bits", "attention", "split", "recurrent", "tied"


def made(name, random_masks, dtype=torch.float32, pattern=None):
    make, x, form = nets()[name]
    net = make().to(dtype)
    if name == "split":
        x = torch.randn(2, 5, 32), torch.randn(2, 6, 16), torch.randn(2, 6, 16)
    x = tuple(t.to(dtype) for t in x) if isinstance(x, tuple) else x.to(dtype) if x.is_floating_point() else x
    masks = random_masks(net, 0.25, pattern)
    if name == "tied":
        masks["head.weight"] = masks["embed.weight"]
    return net, quiet_export(net, masks, x, form), x, masks


def run(net, x):
    with torch.no_grad():
        y = net(*x) if isinstance(x, tuple) else net(x)
    return [t for t in (y if isinstance(y, tuple) else (y,)) if isinstance(t, torch.Tensor)]


def equal(a, b):
    """The same modules, kinds, values, dtypes and settings."""
    assert str(a) == str(b)
    ours, theirs = (dict(n.named_parameters(remove_duplicate=False)) | dict(n.named_buffers()) for n in (a, b))
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        assert x.dtype == theirs[name].dtype and torch.equal(x, theirs[name]), name
        assert x.requires_grad == theirs[name].requires_grad


OTHER_DTYPES = itertools.product(("csr", "split", "tied"), (torch.bfloat16, torch.float16, torch.float64))


@pytest.mark.parametrize(("name", "dtype"), [*((name, torch.float32) for name in NETS), *OTHER_DTYPES], ids=str)
def test_a_net_comes_back_rounded_and_then_never_again(name, dtype, tmp_path, random_masks):
    net, sparse, x, _ = made(name, random_masks, dtype)
    skeleton = net if name == "tied" else None
    save(sparse, tmp_path / "a", compress=True)
    first = load(tmp_path / "a", skeleton)
    equal(first, load(tmp_path / "a", skeleton))
    save(first, tmp_path / "b", compress=True)
    equal(first, load(tmp_path / "b", skeleton))
    save(first, tmp_path / "plain")
    equal(first, load(tmp_path / "plain", skeleton))
    assert (tmp_path / "a").stat().st_size < 0.7 * nbytes(first, stored=True) + 2000
    buffers = dict(sparse.named_buffers())
    for key, x_first in first.named_buffers():
        assert torch.equal(x_first, buffers[key]), key
    for key, p in first.named_parameters():
        was = dict(sparse.named_parameters())[key]
        assert p.dtype == was.dtype and p.shape == was.shape and torch.equal(p == 0, was == 0)
        vector = p.dim() < 2 and not key.endswith("values")
        if vector or not p.is_floating_point():
            assert torch.equal(p, was) or bool(((p - was).abs() <= 2.0**-11 * was.abs() + 1e-6 * was.abs().max()).all())
        else:
            assert float((p - was).detach().double().abs().max()) <= 0.2 * float(was.detach().double().abs().max())
    for a, b in zip(run(first, x), run(load(tmp_path / "b", skeleton), x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_values_are_the_codebooks_to_the_bit(levels, tmp_path, random_masks):
    net = nn.Sequential(nn.Linear(200, 200))
    sparse = quiet_export(net, random_masks(net, 0.1), torch.randn(2, 200), CSR())
    save(sparse, tmp_path / "m", compress=Codebook(levels=levels))
    values, was = load(tmp_path / "m")[0].values.detach(), sparse[0].values.detach()
    entries = values.unique()
    assert len(entries) == levels
    nearest_entry = entries[(was[:, None] - entries).abs().argmin(1)]
    assert torch.equal(values, nearest_entry)
    best = best_levels(was.double().numpy(), np.ones(len(was)), levels)
    assert np.allclose(entries.numpy(), best, rtol=2.0**-10, atol=0)


def test_a_fresh_process_gives_the_same_outputs_without_pyro(tmp_path, random_masks):
    _, sparse, x, _ = made("csr", random_masks)
    save(sparse, tmp_path / "m", compress=True)
    torch.save((x, run(load(tmp_path / "m"), x)[0]), tmp_path / "io.pt")
    code = (
        "import sys, torch, bayesprune.sparse as bp\n"
        "torch.set_num_threads(1)\n"
        f"x, y = torch.load({str(tmp_path / 'io.pt')!r})\n"
        f"assert torch.equal(bp.load({str(tmp_path / 'm')!r})(x), y)\n"
        "assert not {'pyro', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "fine", done.stderr


GOLDEN = (
    "896270636f64650306b0942846e66b99f765cd21596c739d00357a067b4d5d240ddc13946418460e6800000062000000cd97c10d0020"
    "08035782a471ffd1d497445103627401d2f4713d02cc668d7b500f7c0c33c3aaa2f25c51eb897349b5ec0e7937a7440505628e7c9043"
    "24e3d85f466013fc4513f2cfb149800872ae012d4879b29ee6503ebccd0e24dc50237d03668c95c4ec1099016358bd9a61752843e86a"
    "100232e0082202470cab5631ac028aae022120038e202270c4b04aab61d55506512d87d0ac86aea90b566d3d70eaea83575f1958b904"
    "44a51454b50c4cad1c5cbd0218ecec81c0010338a201062a830622813d9100662e00116da18e8e9f55acf933a5dc9bc5221a6c7ff290"
    "dad62c603c17c61ef834b65239e79cffe79c73ce9c73ce3973ce39e7ce39e79c39e79c733621f8cd70c45f4108c17744dbdbdbdbdbdb"
    "dbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdb31dae3d9133373b1b6b4d5f478769795"
    "3838595719193a38f9f91a19dadafbf9bbbbdcdabbbbbbbb00003cbb00000000c0770000c077c077583cc077583ca073583ca073583c"
    "a0732c1ea0736456483a4e0090710000205a0000d0590000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000"
)


def golden():
    """A net of plain numbers: levels, halves, exact numbers and places."""
    net = nn.Sequential(nn.Linear(40, 40), nn.BatchNorm1d(40))
    with torch.no_grad():
        net[0].weight.zero_().view(-1)[::7] = torch.arange(229.0) % 5 - 2
        net[0].bias.copy_(torch.arange(40.0) / 8)
        net[1].running_mean.copy_(torch.arange(40.0) / 3)
    return net.eval()


def test_a_file_that_was_written_once_is_read_ever_after(tmp_path):
    (tmp_path / "m").write_bytes(bytes.fromhex(GOLDEN))
    equal(golden(), load(tmp_path / "m"))


@pytest.mark.parametrize("pattern", [Block(8, 1), Block(4, 4), Channel(0)], ids=str)
def test_a_masked_convolutions_pattern_costs_little(pattern, tmp_path, random_masks):
    net = nn.Sequential(nn.Conv1d(64, 128, 3, bias=False))
    masks = random_masks(net, 0.1, pattern)
    sparse = export(net, {}, masks, example=torch.randn(1, 64, 8))
    file = compressed(sparse)
    save(sparse, tmp_path / "m", compress=True)
    assert torch.equal(load(tmp_path / "m")[0].weight == 0, sparse[0].weight == 0)
    assert 0 < file.tensors["0.weight/col"] < 300  # entry by entry 24,576 · H(0.1) / 8 = 1,440


def test_bytes_are_all_accounted_for(random_masks):
    for name in NETS:
        file = compressed(made(name, random_masks)[1])
        assert 0 < file.rest < 600 + 0.05 * file.nbytes, name
        assert file.nbytes == len(file.data) and sum(file.tensors.values()) + file.rest == pytest.approx(file.nbytes)


def test_lenet300_at_a_hundredth(random_masks):
    net = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    sparse = quiet_export(net, random_masks(net, 0.01), torch.randn(2, 784), CSR())
    assert compressed(sparse).nbytes < 5600


def test_variances_reach_the_values_they_belong_to(random_masks):
    """Weights that number their entries, and variances that are their squares: each value must be given its own."""
    for name in NETS:
        if name == "eight bits":
            continue
        net, _, x, masks = made(name, random_masks)
        weights = {n: torch.arange(1.0, p.numel() + 1).view(p.shape) for n, p in net.named_parameters() if p.dim() > 1}
        means = dict(weights)
        if name == "tied":
            means["head.weight"] = means["embed.weight"]
        for n, b in net.named_buffers():  # batch normalisations scale each output by a number of its own
            if n.endswith("running_var"):
                means[n] = torch.arange(1.0, len(b) + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            form = nets()[name][2]
            formats = form if isinstance(form, dict) else {"*": form}
            sparse = export(net, means, masks, example=x, formats=formats)
            told = export(
                net, means, masks, example=x, formats=formats, variances={n: w.square() for n, w in weights.items()}
            )
        carry_variances(sparse, {n: w.square() for n, w in weights.items()})
        found = variances_of(sparse)
        carried = variances_of(told)  # the same whether the export or the save is given them
        assert carried.keys() == found.keys() and all(torch.allclose(carried[n], found[n], rtol=1e-5) for n in found)
        parameters = dict(sparse.named_parameters())
        assert len(found) >= len(weights)
        for at, spread in found.items():
            stored = parameters[at].detach()
            close = torch.isclose(torch.where(stored != 0, spread, 0.0), stored.square(), rtol=1e-5)
            assert bool(close.all()), (name, at)
        if name == "csr":
            assert any(m.output_scale is not None for m in sparse.modules() if isinstance(m, SparseLinear))


def test_variances_follow_a_net_that_was_made_smaller(random_masks, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(192, 40), nn.ReLU(), nn.Linear(40, 5))
    masks = random_masks(net, 0.3)
    masks["0.weight"][::2] = False
    masks["3.weight"][5:20] = False
    weights = {n: torch.arange(1.0, masks[n].numel() + 1).view(masks[n].shape) for n in masks}
    x = torch.randn(2, 3, 6, 6)
    small = compact(net, weights, masks, example=x)
    variances = small.cut({n: w.square() for n, w in weights.items()})
    sparse = export(small.net, {}, small.masks, example=x)
    parameters = dict(sparse.named_parameters())
    carry_variances(sparse, variances)
    for at, spread in variances_of(sparse).items():
        stored = parameters[at].detach()
        assert torch.equal(torch.where(stored != 0, spread, 0.0), stored.square())
    save(sparse, tmp_path / "m", compress=True, variances=variances)
    loaded = load(tmp_path / "m")
    save(loaded, tmp_path / "n", compress=True)
    equal(loaded, load(tmp_path / "n"))
    assert loaded(x).shape == (2, 5)


def test_hugging_faces_layout_is_turned(random_masks):
    layer = SparseLinear(CSR().pack(torch.ones(3, 5), torch.ones(3, 5, dtype=torch.bool)), None)
    variances = torch.arange(15.0).view(5, 3)
    carry_variances(layer, {"weight": variances})
    assert variances_of(layer)["values"].tolist() == variances.T.flatten().tolist()


def test_what_is_known_well_is_rounded_less(random_masks, tmp_path):
    net = nn.Sequential(nn.Linear(100, 100))
    masks = random_masks(net, 0.3)
    sparse = quiet_export(net, masks, torch.randn(2, 100), CSR())
    sure = torch.full((100, 100), 1e-3)
    sure[:50] = 1e-7
    file = compressed(sparse, Codebook(levels=16), variances={"0.weight": sure})
    (tmp_path / "m").write_bytes(file.data)
    error = (load(tmp_path / "m")[0].values - sparse[0].values).square().detach()
    above = sparse[0].crow[50]
    assert float(error[:above].mean()) < float(error[above:].mean())
    fine, coarse = (compressed(sparse, variances={"0.weight": torch.full((100, 100), v)}).nbytes for v in (1e-7, 1e-4))
    assert coarse < fine


def test_the_export_is_told_the_variances_once(tmp_path):
    """The net carries them, as tensors that follow it and that no state dict and no file holds."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(100, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 10)).eval()
    net[1].running_var.uniform_(0.5, 2)
    masks = {"0.weight": torch.rand(100, 100) < 0.3}
    variances = {name: torch.rand_like(p) * 1e-4 for name, p in net.named_parameters() if p.dim() > 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare = export(net, {}, masks, example=torch.randn(2, 100), formats={"*": CSR()})
        sparse = export(net, {}, masks, example=torch.randn(2, 100), formats={"*": CSR()}, variances=variances)
    assert sparse.state_dict().keys() == bare.state_dict().keys() and nbytes(sparse) == nbytes(bare)
    assert len(list(sparse.parameters())) == len(list(bare.parameters()))
    again = compressed(bare, variances=variances)
    assert compressed(sparse).data == again.data != compressed(bare).data
    assert compressed(copy.deepcopy(sparse)).data == again.data
    assert sparse[0].variance.shape == sparse[0].values.shape
    assert copy.deepcopy(sparse).to(torch.float64)[0].variance.dtype == torch.float64
    save(sparse, tmp_path / "m", compress=True)
    save(sparse, tmp_path / "plain")
    assert (tmp_path / "m").read_bytes() == again.data
    assert not variances_of(load(tmp_path / "m")) and not variances_of(load(tmp_path / "plain"))


# bad input and damaged files


def test_bad_input(random_masks, tmp_path):
    net, sparse, _, _ = made("csr", random_masks)
    for compress in ("yes", 1, 32, None):
        with pytest.raises(ValueError, match=r"compress is True, False or bp.Codebook\(levels=…\), got"):
            codebook_of(compress)
    for levels in (1, 0, -3, 2**16 + 1, True):
        with pytest.raises(ValueError, match="2 to 65,536 levels"):
            Codebook(levels=levels)
    weight = net[6].weight
    for variances, told in (
        ({"6.weight": weight > 0}, "floating-point tensor, got torch.bool"),
        ({"9.nope": torch.ones(2)}, "'9.nope', which the net lacks"),
        ({"6.weight": torch.ones(3, 2)}, r"'6.weight' must have its shape \(32, 256\), got \(3, 2\)"),
        ({"0.weight": torch.ones(3, 2)}, "'0.weight' must have its shape"),
        ({"6.weight": torch.full_like(weight, torch.nan)}, "finite and not negative"),
        ({"6.weight": torch.full_like(weight, -1)}, "finite and not negative"),
    ):
        with pytest.raises(ValueError, match=told):
            save(sparse, tmp_path / "m", compress=True, variances=variances)
    with pytest.raises(ValueError, match="they go with compress=True"):
        save(sparse, tmp_path / "m", variances={})
    broken = nn.Linear(4, 4)
    broken.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="'weight' holds NaN or infinity"):
        save(broken, tmp_path / "m", compress=True)
    wide = nn.Linear(2, 2)
    wide.odd = nn.Parameter(torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(ValueError, match="'odd' is of complex128"):
        save(wide, tmp_path / "m", compress=True)
    with pytest.raises(FileNotFoundError):
        save(sparse, tmp_path / "nowhere" / "m", compress=True)
    assert not list(tmp_path.iterdir())


def test_every_byte_counts(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6))
    path = tmp_path / "m"
    save(net, path, compress=True)
    data = path.read_bytes()
    for at in range(len(data)):
        for flip in (1, 0x80):
            changed = bytearray(data)
            changed[at] ^= flip
            path.write_bytes(changed)
            with pytest.raises(FileError):
                load(path)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(FileError):
            load(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(FileError, match="does not match its checksum"):
        load(path)


def claims(file, change):
    """The file with another manifest, its checksum made right."""
    streams = unpack(file.data)
    manifest = json.loads(streams.text)
    change(manifest)
    return pack(Streams(json.dumps(manifest), streams.exact, streams.numbers))


@pytest.mark.parametrize(
    ("name", "key", "value", "told"),
    [
        ("0.values", "shape", [10**9], "claims tensors of"),
        ("0.values", "shape", [2601], r"'0' of \(50, 52\) claims values of shape"),
        ("0.values", "shape", [9], "claims values of shape"),
        ("0.values", "how", "exact", "cannot be decoded|cannot be coded|holds more|does not end"),
        ("0.values", "how", "zip", "cannot be coded as 'zip'"),
        ("0.values", "dtype", "int64", "cannot be coded as 'levels'"),
        ("0.crow", "shape", [52], "claims values of shape"),
        ("0.crow", "how", "exact", "cannot be coded as 'exact'"),
        ("0.bias", "how", "indices", "cannot be coded as 'indices'"),
        ("1.weight", "shape", [400, 50], r"'1.weight': \(400, 50\) in the file, \(40, 50\) in the net"),
        ("1.weight", "block", [64, 1], "larger than the weight"),
        ("1.running_mean", "shape", [41], "does not fit the net"),
    ],
)
def test_claims_are_held_against_the_net(name, key, value, told, random_masks, tmp_path):
    net = nn.Sequential(nn.Linear(52, 50), nn.Linear(50, 40))
    net[1].register_buffer("running_mean", torch.randn(40))
    sparse = quiet_export(net, random_masks(net, 0.1), torch.randn(2, 52), {"0": CSR(), "1": Dense()})
    file = compressed(sparse)
    (tmp_path / "m").write_bytes(claims(file, lambda m: m["tensors"][name].update({key: value})))
    with pytest.raises(FileError, match=told):
        load(tmp_path / "m", net)
    (tmp_path / "m").write_bytes(claims(file, lambda m: None))
    equal(load(tmp_path / "m", net), load(tmp_path / "m", net))


def test_a_manifest_that_unpacks_to_gigabytes_is_not(tmp_path):
    begin, body = b"\x89bpcode\x03", zlib.compressobj(9, wbits=-15, zdict=DICTIONARY)
    text = body.compress(bytes(2**26)) + body.flush()
    rest = struct.pack("<II", len(text), 0) + text
    (tmp_path / "m").write_bytes(begin + hashlib.sha256(begin + rest).digest() + rest)
    with pytest.raises(FileError, match=r"holds more than [0-9,]+ bytes"):
        load(tmp_path / "m")


def test_a_newer_file_says_so(tmp_path, random_masks):
    data = bytearray(compressed(nn.Linear(3, 3)).data)
    data[7] += 1
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(FileError, match=r"newer bayesprune \(file version 4, this reads 3\): upgrade"):
        load(tmp_path / "m")
