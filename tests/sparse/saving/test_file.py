"""What is saved comes back bit for bit: from the file alone, or into the user's own net; and files are small."""

import json
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bayesprune.patterns import Block
from bayesprune.sparse import BSR, CSR, FileError, SparseLinear, export, load, nbytes, save
from bayesprune.sparse.saving.rebuild import CannotRebuildError, build, describe
from bayesprune.sparse.saving.storage import restore, store

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def quiet_export(net, masks, example, form):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export(net, {}, masks, example=example, formats={"*": form})


def mlp():
    return nn.Sequential(nn.Linear(100, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 10))


def same(a, b):
    """The same modules, kinds, values, dtypes and settings."""
    assert str(a) == str(b) and a.state_dict().keys() == b.state_dict().keys()
    for name, value in a.state_dict().items():
        assert value.dtype == b.state_dict()[name].dtype and torch.equal(value, b.state_dict()[name])
    for (name, p), (other, q) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert name == other and p.requires_grad == q.requires_grad


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 40), max_size=3),
    st.sampled_from(DTYPES),
    st.sampled_from([0.0, 0.02, 0.3, 0.8, 1.0]),
    st.sampled_from([(1, 1), (4, 1), (8, 4), (16, 16)]),
    st.integers(0, 2**31),
)
def test_any_tensor_is_stored_exactly(shape, dtype, keep, block, seed):
    torch.manual_seed(seed)
    x = torch.randn(shape).to(dtype)
    if x.dim() == 2 and x.numel():
        grid = torch.rand(-(-shape[0] // block[0]), -(-shape[1] // block[1])) < keep
        x = x * grid.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[: shape[0], : shape[1]]  # −0.0 too
    stored = store(x)
    again = restore(stored)
    assert again.dtype == x.dtype and again.shape == x.shape
    integer = {8: torch.int64, 4: torch.int32, 2: torch.int16}[x.element_size()]
    assert torch.equal(again.view(integer) if x.dim() else again, x.view(integer) if x.dim() else x)
    assert stored.nbytes <= x.nbytes


@pytest.mark.parametrize(
    ("keep", "block", "how"),
    [
        (1.0, (1, 1), "dense"),
        (0.6, (1, 1), "bits"),
        (0.01, (1, 1), "csr"),
        (0.05, (16, 1), "bsr"),
        (0.05, (16, 16), "bsr"),
    ],
)
def test_the_smallest_way_is_taken(keep, block, how):
    grid = torch.rand(256 // block[0], 256 // block[1]) < keep
    x = torch.randn(256, 256) * grid.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    stored = store(x.abs())
    assert stored.how == how and torch.equal(restore(stored), x.abs())
    assert stored.nbytes <= 1.4 * 4 * int((x != 0).sum()) + 256 * 4


def test_integers_are_stored_narrow():
    for largest, itemsize in ((200, 1), (30_000, 2), (100_000, 4)):
        stored = store(torch.arange(largest, dtype=torch.int64))
        assert stored.nbytes == largest * itemsize and torch.equal(restore(stored), torch.arange(largest))
    negative = -torch.arange(100)
    assert torch.equal(restore(store(negative)), negative)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", [CSR(), BSR(16, 1), BSR(3, 7)], ids=str)
def test_round_trip(form, dtype, tmp_path, random_masks):
    net = mlp().to(dtype)
    x = torch.randn(7, 100).to(dtype)
    sparse = quiet_export(net, random_masks(net), x, form)
    save(sparse, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    same(sparse, loaded)
    assert isinstance(loaded[0], SparseLinear) and loaded[0].kernel == sparse[0].kernel
    assert not loaded.training and torch.equal(loaded(x), sparse(x))
    same(sparse, load(tmp_path / "model.safetensors", net=net))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_fresh_process_needs_no_pyro(tmp_path, random_masks):
    net, x = mlp(), torch.randn(7, 100)
    sparse = quiet_export(net, random_masks(net), x, CSR())
    save(sparse, tmp_path / "m.safetensors")
    torch.save((x, sparse(x).detach()), tmp_path / "io.pt")
    code = (
        "import sys, torch, bayesprune.sparse as bp\n"
        f"x, y = torch.load({str(tmp_path / 'io.pt')!r})\n"
        f"net = bp.load({str(tmp_path / 'm.safetensors')!r})\n"
        "assert torch.equal(net(x), y)\n"
        "assert not {'pyro', 'pickle5', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "fine", done.stderr


LAYERS = [
    (lambda: nn.MultiheadAttention(16, 4, bias=False, add_bias_kv=True, batch_first=True), 3),
    (lambda: nn.MultiheadAttention(16, 2, dropout=0.1, kdim=16, add_zero_attn=True), 3),
    (lambda: nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", norm_first=True, batch_first=True), 1),
    (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, nn.LayerNorm(16)), 1),
    (lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32), 2), 2),
    (lambda: nn.Transformer(16, 2, 1, 2, 32, batch_first=True), 2),
    (lambda: nn.LSTM(16, 8, 2, batch_first=True, bidirectional=True, proj_size=4), 1),
    (lambda: nn.RNN(16, 8, nonlinearity="relu", bias=False), 1),
    (lambda: nn.GRU(16, 8), 1),
]


@pytest.mark.parametrize("case", range(len(LAYERS)))
def test_torchs_own_layers_come_back_from_the_file_alone(case, tmp_path, random_masks):
    make, inputs = LAYERS[case]
    net = make()
    example = (torch.randn(3, 5, 16),) * inputs
    sparse = quiet_export(net, random_masks(net, 0.2), example, CSR())
    save(sparse, tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    with torch.no_grad():
        first, second = sparse(*example), loaded(*example)
    pairs = zip(first, second, strict=True) if isinstance(first, tuple) else [(first, second)]
    assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor))
    same(sparse, loaded)


VISION = [
    *(nn.Conv2d(3, 8, 3, 2, 1, 1, 1, False, "reflect"), nn.BatchNorm2d(8, eps=1e-3), nn.PReLU(8), nn.Dropout2d(0.3)),
    *(nn.ConvTranspose2d(8, 8, 3, output_padding=1, stride=2), nn.GroupNorm(2, 8), nn.Hardtanh(-2, 2), nn.CELU(0.5)),
    *(nn.MaxPool2d((2, 1)), nn.AdaptiveAvgPool2d((4, None)), nn.Upsample(scale_factor=2, mode="bilinear")),
    *(nn.ZeroPad2d((1, 2, 0, 1)), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(0.2, True), nn.PixelShuffle(2)),
    *(nn.Flatten(2), nn.LayerNorm(190), nn.Softmax(-1), nn.Identity(), nn.Unflatten(1, (1, 2))),
]


def test_every_setting_of_a_layer_is_kept(tmp_path):
    for module in (*VISION, nn.Embedding(9, 4, padding_idx=2), nn.EmbeddingBag(9, 4, mode="sum"), nn.Bilinear(2, 3, 4)):
        save(module.eval(), tmp_path / "m.safetensors")
        loaded = load(tmp_path / "m.safetensors")
        same(module, loaded)
        assert {k: v for k, v in vars(module).items() if k[0] != "_"} == {
            k: v for k, v in vars(loaded).items() if k[0] != "_"
        }


def test_nested_and_named_containers(tmp_path):
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(nn.Linear(8, 8), nn.GELU("tanh")))
    net.add_module("head", nn.ModuleDict({"a": nn.Linear(8, 2), "b": nn.ModuleList([nn.Linear(8, 3)])}))
    save(net.eval(), tmp_path / "m.safetensors")
    same(net, load(tmp_path / "m.safetensors"))


class Mine(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.embed = nn.Embedding(20, 24)
        self.fc = nn.Linear(24, width)
        self.back = nn.Linear(width, 24)
        self.head = nn.Linear(24, 20, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("offset", torch.full((3,), -torch.inf), persistent=False)

    def forward(self, tokens):
        return self.head(self.back(torch.relu(self.fc(self.embed(tokens)))) * self.scale).clamp(min=self.offset[0])


def test_the_users_own_net_is_loaded_into_a_skeleton(tmp_path, random_masks):
    net, x = Mine(), torch.randint(0, 20, (2, 5))
    sparse = quiet_export(net, random_masks(net, 0.2), x, CSR())
    sparse.offset.fill_(-0.5)
    save(sparse, tmp_path / "m.safetensors")
    with pytest.raises(
        FileError, match=r"needs its net: load\(path, net=skeleton\), for .*Mine is not a module of torch"
    ):
        load(tmp_path / "m.safetensors")
    skeleton = Mine()
    before = {k: v.clone() for k, v in skeleton.state_dict().items()}
    loaded = load(tmp_path / "m.safetensors", net=skeleton)
    same(sparse, loaded)
    assert torch.equal(loaded(x), sparse(x)) and loaded.head.weight is loaded.embed.weight
    assert torch.equal(loaded.offset, sparse.offset) and "offset" not in loaded.state_dict()
    assert all(torch.equal(skeleton.state_dict()[k], v) for k, v in before.items())
    same(sparse, load(tmp_path / "m.safetensors", net=sparse))  # an exported net is a skeleton too


@pytest.mark.parametrize(
    ("skeleton", "message"),
    [
        (lambda: Mine(16), r"'fc.weight': \(32, 24\) in the file, \(16, 24\) in the net"),
        (lambda: nn.Linear(3, 3), "layer 'back' .* the net has None"),
        (lambda: mlp(), "layer 'back'"),
    ],
)
def test_a_skeleton_that_does_not_fit(skeleton, message, tmp_path, random_masks):
    net = Mine()
    masks = random_masks(net, names=["back.weight"])
    save(quiet_export(net, masks, torch.zeros(1, 1, dtype=torch.long), CSR()), tmp_path / "m.safetensors")
    with pytest.raises(FileError, match=message):
        load(tmp_path / "m.safetensors", net=skeleton())
    more = Mine()
    more.extra = nn.Linear(2, 2)
    with pytest.raises(FileError, match=r"does not fit the net: 'extra.bias': missing in the file"):
        load(tmp_path / "m.safetensors", net=more)


def test_hugging_faces_layout_comes_back(tmp_path, random_masks):
    class Conv1D(nn.Module):
        def __init__(self):
            super().__init__()
            self.nf = 12
            self.weight, self.bias = nn.Parameter(torch.randn(20, 12)), nn.Parameter(torch.randn(12))

        def forward(self, x):
            return x @ self.weight + self.bias

    net, x = nn.Sequential(Conv1D()), torch.randn(3, 20)
    sparse = quiet_export(net, random_masks(net, 0.3), x, BSR(4, 1))
    assert isinstance(sparse[0], SparseLinear)
    save(sparse, tmp_path / "m.safetensors")
    assert torch.equal(load(tmp_path / "m.safetensors", net=net)(x), sparse(x))
    assert torch.equal(load(tmp_path / "m.safetensors")(x), sparse(x))  # nothing of the user's is left in it


def test_masked_convolutions_are_stored_small(tmp_path, random_masks):
    net = nn.Sequential(nn.Conv2d(32, 64, 3), nn.Conv2d(64, 64, 3)).to(memory_format=torch.channels_last)
    x = torch.randn(1, 32, 8, 8)
    for pattern, most in ((None, 1.6), (Block(16, 1), 1.1)):
        masks = random_masks(net, 0.05, pattern)
        sparse = export(net, {}, masks, example=x)
        save(sparse, tmp_path / "m.safetensors")
        kept = sum(int(m.sum()) for m in masks.values()) * 4
        assert (tmp_path / "m.safetensors").stat().st_size < most * kept + 6000
        loaded = load(tmp_path / "m.safetensors")
        assert loaded[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(loaded(x), sparse(x))


def test_lenet300_at_fifty_times(tmp_path, random_masks):
    net = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    sparse = export(net, {}, random_masks(net, 0.02), example=torch.randn(64, 784))
    save(net, tmp_path / "dense.safetensors")
    save(sparse, tmp_path / "sparse.safetensors")
    dense, packed = ((tmp_path / f"{which}.safetensors").stat().st_size for which in ("dense", "sparse"))
    assert dense / packed > 20
    assert abs(packed - nbytes(sparse, stored=True)) < 6000


def test_flags_survive(tmp_path):
    net = nn.Sequential(nn.Linear(3, 3))
    net[0].weight.requires_grad_(False)
    save(net, tmp_path / "m.safetensors")
    assert [p.requires_grad for p in load(tmp_path / "m.safetensors").parameters()] == [False, True]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "m.safetensors"
    save(nn.Linear(2, 2), path)
    before = path.read_bytes()
    broken = nn.Linear(2, 2)
    broken.odd = nn.Parameter(torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(ValueError, match="complex128"):
        save(broken, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    with pytest.raises(FileNotFoundError):
        save(nn.Linear(2, 2), tmp_path / "nowhere" / "m.safetensors")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
        save(nn.Linear(2, 2), tmp_path)


def test_what_cannot_be_saved_says_so(tmp_path):
    class Extra(nn.Module):
        def get_extra_state(self):
            return 1

    for net, message in (
        (Extra(), "extra state"),
        (nn.Linear(2, 2, device="meta"), "meta device"),
        (nn.Linear(2, 2).requires_grad_(False).apply(lambda m: m.weight.fill_(torch.nan)), "NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            save(net, tmp_path / "m")


@pytest.mark.parametrize(
    "node",
    [
        {"class": "os.system", "args": {"command": "true"}},
        {"class": "Module.__subclasses__"},
        {"class": "DataParallel", "args": {"module": {"class": "ReLU"}}},
        {"class": "functional"},
        {"class": "Linear", "args": {"in_features": 2}},
        {"class": "Linear", "args": {"in_features": -2, "out_features": 3}},
        {"class": "Linear", "args": {"in_features": 2**62, "out_features": 2**62}},
        {"class": "LSTM", "args": {"input_size": 1, "hidden_size": 1, "num_layers": 10**9}},
        {"class": "Sequential", "children": {"a.b": {"class": "ReLU"}}},
        {"class": "Sequential", "children": ["ReLU"]},
        {"class": 3},
        {},
    ],
)
def test_a_manifest_builds_torchs_modules_and_nothing_else(node):
    with pytest.raises(CannotRebuildError):
        build(node)


def test_altered_modules_are_not_rebuilt_as_if_they_were_not():
    altered = nn.Linear(2, 2)
    altered.forward = lambda x: x
    grown = nn.Linear(2, 2)
    grown.extra = nn.Parameter(torch.ones(1))
    nested = nn.TransformerEncoderLayer(8, 2, 16)
    nested.linear1 = nn.Sequential(nn.Linear(8, 16))
    called = nn.TransformerEncoderLayer(8, 2, 16, activation=torch.tanh)
    for net in (altered, grown, nested, called, nn.Sequential(Mine())):
        with pytest.raises(CannotRebuildError):
            describe(net)
    assert json.dumps(describe(mlp()))


def test_convolutions_of_one_channel_or_position_lie_in_memory_as_before(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 1), nn.Conv2d(3, 2, 3))
    for layout in (torch.channels_last, torch.contiguous_format):
        net = net.to(memory_format=layout)
        save(net, tmp_path / "m.safetensors")
        loaded = load(tmp_path / "m.safetensors")
        for mine, its in zip(net.parameters(), loaded.parameters(), strict=True):
            assert torch.equal(mine, its) and mine.stride() == its.stride()
