"""A damaged or altered file is refused, as ``FileError`` and before a kernel reads memory."""

import contextlib
import copy
import random
import warnings

import pytest
import torch
from safetensors.torch import save as write
from support.forging import ODD, forge, parts, places, set_at
from torch import nn

from bayesprune.sparse import BSR, CSR, FileError, export, load, save


@pytest.fixture
def model(tmp_path, random_masks):
    """A net with a CSR and a BSR layer and a masked convolution, its file, an input and the outputs."""
    net = nn.Sequential(nn.Conv2d(2, 16, 3), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))
    x = torch.randn(3, 2, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, random_masks(net, 0.2), example=x, formats={"2": CSR(), "4": BSR(4, 1)})
    path = tmp_path / "model.safetensors"
    save(sparse, path)
    return path, x, sparse(x).detach()


def test_the_file_is_right_to_begin_with(model):
    path, x, y = model
    assert torch.equal(load(path)(x), y)
    forge(path, *parts(path))
    assert torch.equal(load(path)(x), y)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 0.3, 0.6, 0.9, -1])
def test_truncated(model, keep):
    path, _, _ = model
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(FileError, match="not a whole safetensors file"):
        load(path)


def test_longer_than_it_says(model):
    path, _, _ = model
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(FileError):
        load(path)


def test_a_flipped_bit_in_a_buffer_is_named(model):
    path, _, _ = model
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileError, match=r"'.+' does not match its checksum"):
        load(path)


def test_hundreds_of_mutations_are_refused_or_change_nothing(model):
    path, x, y = model
    whole, choose = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(choose.choice([1, 1, 1, 2, 8])):
            kind, at = choose.choice(["flip", "byte", "cut", "insert", "swap"]), choose.randrange(len(data))
            if kind == "flip":
                data[at] ^= 1 << choose.randrange(8)
            elif kind == "byte":
                data[at] = choose.randrange(256)
            elif kind == "cut":
                del data[at : at + choose.randrange(1, 40)]
            elif kind == "insert":
                data[at:at] = choose.randbytes(choose.randrange(1, 9))
            else:
                other = choose.randrange(len(data))
                data[at], data[other] = data[other], data[at]
        path.write_bytes(data)
        try:
            loaded = load(path)
        except FileError:
            refused += 1
        else:
            assert torch.equal(loaded(x), y)
    assert refused > 500


def test_altered_manifest(model):
    path, _, _ = model
    data = path.read_bytes()
    assert b"in_features" in data
    path.write_bytes(data.replace(b"in_features", b"in_feature5"))
    with pytest.raises(FileError, match="manifest does not match its checksum"):
        load(path)


@pytest.mark.parametrize(
    ("version", "told"),
    [(4, r"newer bayesprune \(file version 4, this reads 3\): upgrade"), (2, r"version 2\): export and save again")],
)
def test_another_version_says_what_to_do(model, version, told):
    path, _, _ = model
    manifest, tensors = parts(path)
    forge(path, manifest | {"version": version}, tensors)
    with pytest.raises(FileError, match=told):
        load(path)


def test_other_peoples_files(tmp_path):
    path = tmp_path / "theirs.safetensors"
    path.write_bytes(write({"a": torch.ones(2)}))
    with pytest.raises(FileError, match="not a bayesprune model: the file has no manifest"):
        load(path)
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(FileError, match="not a whole safetensors file"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")


BUFFERS = [
    ("2.col", lambda t: torch.full_like(t, 64), r"col must lie in \[0, 64\)"),
    ("2.col", lambda t: t[:-1].clone(), "cannot be unpacked: expected shape"),
    ("2.col", lambda t: t.to(torch.float32), "cannot be unpacked"),
    ("2.crow", lambda t: t.flip(0), "crow must rise from 0"),
    ("2.crow", lambda t: torch.zeros_like(t), "crow must rise from 0"),
    ("2.values", lambda t: torch.full_like(t, torch.nan), "holds NaN or infinity"),
    ("2.values", lambda t: t.double(), "expected float32, got float64"),
    ("4.values", lambda t: t[:-1].clone(), "cannot be unpacked"),
    ("4.col", lambda t: torch.full_like(t, 32), r"col must lie in \[0, 32\)"),
    ("0.weight/bits", lambda t: t[:-1].clone(), "one bit an entry"),
    ("0.weight/bits", lambda t: torch.zeros_like(t), "the bit mask keeps 0 entries"),
    ("0.weight", lambda t: t[:-1].clone(), "the bit mask keeps"),
]


@pytest.mark.parametrize("case", range(len(BUFFERS)))
def test_buffers_with_their_checksums_made_right(model, case):
    path, _, _ = model
    name, change, message = BUFFERS[case]
    manifest, tensors = parts(path)
    tensors[name] = change(tensors[name])
    forge(path, manifest, tensors)
    with pytest.raises(FileError, match=message):
        load(path)


MANIFESTS = [
    (("sparse", "2", "format", ["CSC"]), "packed as 'CSC'; this version knows Dense, CSR, BSR, Semi"),
    (("sparse", "2", "format", []), "malformed: 2: Expected .array. of length >= 1"),
    (("sparse", "4", "format", ["BSR", 0, 1]), "integer ≥ 1"),
    (("sparse", "4", "format", ["BSR", 4]), "malformed"),
    (("sparse", "4", "format", ["BSR", 8, 1]), "packed layer '4' is damaged"),
    (("sparse", "4", "format", ["CSR"]), "packed layer '4' is damaged"),
    (("sparse", "2", "shape", [32, 63]), r"layer '2' of \(out, in\) = \(32, 63\), the net has \(32, 64\)"),
    (("sparse", "2", "shape", [32]), "malformed"),
    (("sparse", "2", "shape", [-1, 64]), "malformed"),
    (("sparse", "0", {"format": ["CSR"], "kernel": "torch", "shape": [16, 2], "activation": ""}), "layer '0'"),
    (("sparse", "9", {"format": ["CSR"], "kernel": "torch", "shape": [16, 2], "activation": ""}), "layer '9'"),
    (("sparse", 3), "malformed"),
    (("net", {"class": "system"}), "system is not a module of torch.nn"),
    (("net", "children", "2", "args", "in_features", 65), r"the net has \(32, 65\)"),
    (("net", 3), "malformed"),
    (("net", None), "needs its net"),
    (("tensors", "0.weight", "how", "zip"), "stored as 'zip', which this version does not know"),
    (("tensors", "0.weight", "how", "csr"), "it needs the parts"),
    (("tensors", "0.weight", "shape", [10**6, 10**6]), r"\(1000000, 1000000\) in the file, \(16, 2, 3, 3\) in"),
    (("tensors", "0.weight", "shape", [16, 2, 9]), "does not fit the net"),
    (("tensors", "0.weight", "shape", [True]), "malformed"),
    (("tensors", "0.weight", "dtype", "object"), "cannot be"),
    (("tensors", "0.weight", "parts", {"values": "nope"}), "cannot be unpacked"),
    (("tensors", "0.weight", "kind", "buffer"), "does not fit the net"),
    (("tensors", "0.weight", "kind", "secret"), "malformed: 0.weight: Invalid enum value 'secret'"),
    (("tensors", "0.bias", "block", [3]), "malformed"),
    (("tensors", "0.bias", "block", [2, 2]), r"cannot be stored as dense of \(2, 2\)"),
    (("ties", {"0.weight": "gone"}), "which the file lacks"),
    (("ties", "a"), "malformed"),
    (("version", "1"), "malformed"),
    (("version", True), "malformed"),
]


@pytest.mark.parametrize("case", range(len(MANIFESTS)))
def test_manifests_with_their_checksum_made_right(model, case):
    path, _, _ = model
    where, message = MANIFESTS[case]
    manifest, tensors = parts(path)
    set_at(manifest, *where)
    forge(path, manifest, tensors)
    with pytest.raises(FileError, match=message):
        load(path)


def test_odd_values_anywhere_in_the_manifest(model):
    path, _, _ = model
    manifest, tensors = parts(path)
    where = [place for place in places(manifest) if place[0] != "buffers"]
    choose = random.Random(0)
    for _ in range(400):
        altered = copy.deepcopy(manifest)
        set_at(altered, *choose.choice(where), choose.choice(ODD))
        forge(path, altered, tensors)
        with contextlib.suppress(FileError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(path)


def test_a_kernel_of_another_machine_gives_way(model):
    path, x, y = model
    manifest, tensors = parts(path)
    set_at(manifest, "sparse", "2", "kernel", "tpu")
    forge(path, manifest, tensors)
    with pytest.warns(UserWarning, match="2: no kernel 'tpu' here; 'reference' runs, and is slow"):
        loaded = load(path)
    torch.testing.assert_close(loaded(x), y)


def test_missing_and_spare_tensors(model):
    path, _, _ = model
    manifest, tensors = parts(path)
    forge(path, manifest, {k: v for k, v in tensors.items() if k != "2.col"}, sums=False)
    with pytest.raises(FileError, match="not those that its manifest names"):
        load(path)
    forge(path, manifest, {k: v for k, v in tensors.items() if k != "2.col"})
    with pytest.raises(FileError, match=r"'2.col' cannot be unpacked"):
        load(path)
    del manifest["tensors"]["2.col"]
    forge(path, manifest, tensors)
    with pytest.raises(FileError, match="packed layer '2' lacks col"):
        load(path)
