"""What follows a packed layer is worked out in it where, and only where, nothing can tell."""

import copy
import hashlib
import json
import warnings
from importlib import import_module
from threading import Thread

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.patterns import Block
from bayesprune.sparse import BSR, CSR, FileError, SparseLinear, export, load, plan, save
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.saving.manifest import Manifest
from bayesprune.sparse.surgery.fold import fold
from bayesprune.sparse.surgery.followers import followers
from bayesprune.sparse.surgery.fuse import fuse, identities_in

pytest.importorskip("llvmlite")


@pytest.fixture(autouse=True)
def _our_kernel_wins(monkeypatch):
    def timed(runners, **kwargs):
        return {name: 1.0 if name.endswith("native") else 2.0 for name in runners}, ""

    monkeypatch.setattr(import_module("bayesprune.sparse.planning.planner"), "timed", timed)


def seasoned(net):
    """Batch norms as after training, with factors of either sign and of zero."""
    for m in net.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.2, 3.0)
            if m.affine:
                nn.init.normal_(m.weight)
                nn.init.normal_(m.bias)
                m.weight.data[0] = 0.0
    return net.eval()


def packed(net, random_masks, x, form, **kwargs):
    masks = random_masks(net, 0.4, Block(form.h, form.w) if isinstance(form, BSR) else None, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export(net, {}, masks, example=x, formats={"*": form}), masks


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", [CSR(), BSR(4, 2), BSR(3, 5), BSR(4, 1, bits=8), CSR(bits=8)], ids=str)
def test_a_folded_linear_layer_is_the_layer_and_its_norm(form, bias, affine):
    weight, mask = torch.randn(10, 13, dtype=torch.float64), torch.rand(10, 13) < 0.4
    layer = SparseLinear(form.pack(weight, mask), torch.randn(10, dtype=torch.float64) if bias else None)
    norm = seasoned(nn.BatchNorm1d(10, affine=affine)).double()
    x = torch.randn(7, 13, dtype=torch.float64)
    expected = norm(layer(x))
    crow, stored = layer.crow.clone(), layer.values.shape
    fold(layer, norm)
    tolerance = 1e-6 if getattr(form, "bits", None) else 1e-12  # the scale is float32
    torch.testing.assert_close(layer(x), expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(layer.crow, crow) and layer.values.shape == stored
    layer.format.check(layer.sparse_weight)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_folded_convolution_is_the_convolution_and_its_norm(groups):
    form, geometry = BSR(4, 2), Geometry((3, 3), padding=(1, 1), groups=groups)
    matrix, mask = torch.randn(8, 36 // groups, dtype=torch.float64), torch.rand(8, 36 // groups) < 0.5
    layer = SparseConv2d(form.pack(matrix, mask), None, geometry)
    norm = seasoned(nn.BatchNorm2d(8)).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    expected = norm(layer(x))
    fold(layer, norm)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    assert layer.bias.requires_grad and layer.values.requires_grad


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.relu1, self.relu2, self.shortcut = nn.ReLU(), nn.ReLU(), nn.Identity()
        if stride != 1:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))) + self.shortcut(x))


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.fc1, self.gelu, self.fc2 = nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.fc2(self.gelu(self.fc1(x)))


def conv_net():
    return nn.Sequential(
        nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 8),
        nn.BatchNorm1d(8), nn.Identity(), nn.GELU(),
    )  # fmt: skip


@pytest.mark.parametrize("form", [BSR(4, 4), BSR(4, 4, bits=8)], ids=str)
def test_norms_and_activations_of_a_net_are_worked_out_and_survive_the_file(form, random_masks, masked_dense, tmp_path):
    net, x = seasoned(conv_net()), torch.randn(3, 8, 6, 6)
    sparse, masks = packed(net, random_masks, x, form)
    assert identities_in(sparse) == ["1", "2", "5", "6", "7"]
    assert [m.activation for m in sparse if isinstance(m, SparseLinear)] == ["relu", "gelu"]
    with torch.no_grad():
        near = 0.05 if form.bits else 1e-5
        torch.testing.assert_close(sparse(x), masked_dense(net, masks)(x), rtol=near, atol=near)
        save(sparse, tmp_path / "m.safetensors")
        for skeleton in (None, conv_net()):
            again = load(tmp_path / "m.safetensors", net=skeleton)
            assert torch.equal(again(x), sparse(x)) and identities_in(again) == identities_in(sparse)
            assert {n: p.requires_grad for n, p in again.named_parameters()} == {
                n: p.requires_grad for n, p in sparse.named_parameters()
            }
    assert net[1].weight.requires_grad and isinstance(net[1], nn.BatchNorm2d)


def test_residual_blocks_keep_what_follows_the_sum(random_masks, masked_dense, tmp_path):
    net, x = seasoned(nn.Sequential(Residual(8, 16, stride=2), Residual(16, 16))), torch.randn(2, 8, 6, 6)
    sparse, masks = packed(net, random_masks, x, BSR(4, 4))
    names = ["0.bn1", "0.relu1", "0.bn2", "0.shortcut.1", "1.bn1", "1.relu1", "1.bn2", "1.shortcut"]
    assert sorted(identities_in(sparse)) == sorted(names)
    assert isinstance(sparse[0].relu2, nn.ReLU) and sparse[0].conv2.activation == ""
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), masked_dense(net, masks)(x), rtol=1e-4, atol=1e-5)
        save(sparse, tmp_path / "m.safetensors")
        skeleton = nn.Sequential(Residual(8, 16, stride=2), Residual(16, 16))
        assert torch.equal(load(tmp_path / "m.safetensors", net=skeleton)(x), sparse(x))
    assert isinstance(skeleton[0].bn1, nn.BatchNorm2d)


def test_an_activation_of_a_block_that_is_no_sequential(random_masks, masked_dense):
    net, x = Attends().eval(), torch.randn(2, 5, 16)
    for names in (["fc1.weight", "fc2.weight"], None):
        sparse, masks = packed(net, random_masks, x, BSR(4, 4), names=names)
        assert identities_in(sparse) == ["gelu"] and sparse.fc1.activation == "gelu" and sparse.fc2.activation == ""
        with torch.no_grad():
            torch.testing.assert_close(sparse(x), masked_dense(net, masks)(x), rtol=1e-4, atol=1e-5)


def test_fine_tuning_reaches_what_was_folded(random_masks):
    x = torch.randn(3, 8, 6, 6)
    sparse, _ = packed(seasoned(conv_net()), random_masks, x, BSR(4, 4))
    sparse(x).sum().backward()
    assert all(p.grad is not None for p in sparse.parameters())


class Body(nn.Module):
    """One layer, a norm and an activation, used as the argument says."""

    def __init__(self, use):
        super().__init__()
        self.fc, self.bn, self.act, self.use = nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), use

    def forward(self, x):
        return self.use(self, x)


def by_rows(m, x):
    """Rows are what the norm takes for features."""
    return m.act(m.bn(m.fc(x[:, None].expand(-1, 16, -1))))


def branches(m, x):
    return m.act(m.bn(m.fc(x))) if x.shape[0] > 1 else m.fc(x)


def told_apart(m, x):
    """The trace sees one way, a tensor goes the other."""
    return m.bn(m.fc(x)).tanh() if isinstance(x, torch.Tensor) else m.act(m.bn(m.fc(x)))


KEPT = {
    "used twice": lambda m, x: m.act(m.bn(m.fc(x))) + m.fc(x),
    "its result too": lambda m, x: (y := m.fc(x)) + m.act(m.bn(y)),
    "returned too": lambda m, x: [y := m.fc(x), m.act(m.bn(y))],
    "weight read": lambda m, x: m.act(m.bn(m.fc(x))) + m.fc.bias.sum(),
    "norm read": lambda m, x: m.bn(m.fc(x)) * m.bn.weight,
    "by rows": by_rows,
    "branches": branches,
    "told apart": told_apart,
    "changed between": lambda m, x: m.act(m.bn(m.fc(x) + 1)),
    "activation first": lambda m, x: m.bn(torch.tanh(m.fc(x))),
}


@pytest.mark.parametrize("use", KEPT)
def test_what_something_else_sees_stays(use, random_masks, masked_dense):
    net, x = seasoned(Body(KEPT[use])), torch.randn(4, 16)
    sparse, masks = packed(net, random_masks, x, BSR(4, 4), names=["fc.weight"])
    assert identities_in(sparse) == [] and sparse.fc.activation == "" and isinstance(sparse.bn, nn.BatchNorm1d)
    dense = masked_dense(net, masks)
    for inputs in (x, x[:1]):
        with torch.no_grad():
            torch.testing.assert_close(sparse(inputs), dense(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", ["hook", "no statistics", "subclass"])
def test_norms_that_are_not_plain_stay(change, random_masks):
    net = seasoned(Body(lambda m, x: m.act(m.bn(m.fc(x)))))
    if change == "hook":
        net.bn.register_forward_hook(lambda *_: None)
    elif change == "no statistics":
        net.bn = nn.BatchNorm1d(16, track_running_stats=False).eval()
    else:
        net.bn.__class__ = type("Own", (nn.BatchNorm1d,), {})
    sparse, _ = packed(net, random_masks, torch.randn(4, 16), BSR(4, 4), names=["fc.weight"])
    assert identities_in(sparse) == []


def test_where_outputs_differ_everything_is_put_back(random_masks):
    x = torch.randn(4, 16)
    sparse, _ = packed(seasoned(Body(told_apart)), random_masks, x, BSR(4, 4), names=["fc.weight"])
    before = {name: t.clone() for name, t in sparse.state_dict().items()}
    modules = dict(sparse.named_modules())
    assert followers(sparse, ["fc"]) == ({"fc": "bn", "bn": "act"}, {})
    assert fuse(sparse, x) == []
    assert dict(sparse.named_modules()) == modules
    assert all(torch.equal(t, before[name]) for name, t in sparse.state_dict().items())


class Pair(nn.Module):
    """A layer whose norm is told apart from others, and one whose norm is not."""

    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Linear(16, 16), nn.BatchNorm1d(16)
        self.two, self.act = nn.Linear(16, 16), nn.ReLU()

    def forward(self, x):
        return self.act(self.two(self.norm(self.one(x)) * (2.0 if type(self.norm) is nn.Identity else 1.0)))


def test_a_pair_that_cannot_be_fused_does_not_keep_the_others(random_masks, masked_dense):
    net, x = seasoned(Pair()), torch.randn(4, 16)
    masks = random_masks(net, 0.4, Block(4, 4))
    with pytest.warns(
        UserWarning, match=r"'norm' cannot be worked out in 'one' before it and stays: on the example its results"
    ):
        sparse = export(net, {}, masks, example=x, formats={"*": BSR(4, 4)})
    assert identities_in(sparse) == ["act"] and sparse.two.activation == "relu" and sparse.one.output_scale is None
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), masked_dense(net, masks)(x), rtol=1e-5, atol=1e-5)


def test_a_forward_that_reads_what_is_gone_is_told(random_masks):
    class Reads(Pair):
        def forward(self, x):
            return self.act(self.two(self.norm(self.one(x)) + 0 * self.norm.eps))

    net = seasoned(Reads())
    masks = random_masks(net, 0.4, Block(4, 4))
    with pytest.warns(UserWarning, match=r"'norm' cannot be worked out in 'one' .*raises AttributeError: 'Identity'"):
        sparse = export(net, {}, masks, example=torch.randn(4, 16), formats={"*": BSR(4, 4)})
    assert identities_in(sparse) == ["act"]


def test_the_plan_says_what_is_worked_out_in_each_layer_and_what_is_not(random_masks):
    net = seasoned(nn.Sequential(conv_net(), Loops()))
    masks, x = random_masks(conv_net(), 0.4, Block(4, 2)), torch.randn(3, 8, 6, 6)
    made = plan(net[0], masks, example=x, formats={"*": BSR(4, 2)})
    sparse = export(net[0], {}, masks, example=x, plan=made)
    assert [at for choice in made.choices.values() for at in choice.fused] == ["1", "2", "5", "7"]
    assert {"1", "2", "5", "7"} <= set(identities_in(sparse))
    assert "0.weight: 1 and 2 worked out in it" in str(made)
    assert made["0.weight"].to_dict()["fused"] == ["1", "2"]
    loops = plan(net[1], random_masks(net[1], 0.4, Block(4, 4)), example=torch.randn(4, 16), formats={"*": BSR(4, 4)})
    assert loops["blocks.0.0.weight"].fused == ("blocks.0.1",)
    assert "the net cannot be traced (TraceError: symbolically traced variables" in loops["head.weight"].unfused
    relus = nn.Sequential(nn.Linear(16, 16), nn.Tanh()).eval()
    told = plan(relus, random_masks(relus, 0.4), example=torch.randn(4, 16), formats={"*": CSR()})
    assert "0.weight: nothing worked out in it: Tanh '1' is no activation that a kernel works out" in str(told)


def test_shared_modules_stay(random_masks):
    net = seasoned(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)))
    net.append(net[1])
    sparse, _ = packed(net, random_masks, torch.randn(4, 16), BSR(4, 4))
    assert identities_in(sparse) == []


class Loops(nn.Module):
    """No trace goes through it: how often it loops depends on the numbers."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(2)])
        self.head = nn.Linear(16, 16)

    def forward(self, x):
        while x.abs().max() > 1:
            x = x / 2
        for block in self.blocks:
            x = block(x)
        return self.head(x).relu()


def test_parts_of_a_net_that_has_no_trace(random_masks):
    net = Loops().eval()
    assert followers(net)[0] == {"blocks.0.0": "blocks.0.1", "blocks.1.0": "blocks.1.1"}
    assert followers(nn.Sequential(nn.Linear(2, 16), net, nn.ReLU()))[0]["1"] == "2"
    sparse, _ = packed(net, random_masks, torch.randn(4, 16), BSR(4, 4))
    assert identities_in(sparse) == ["blocks.0.1", "blocks.1.1"]


def test_tracing_leaves_no_mark_on_the_net_nor_on_other_threads():
    made = []

    class Marks(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            self.seen = x
            served = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
            thread = Thread(target=lambda: made.append(served(torch.ones(1, 4))))
            thread.start()
            thread.join()
            return F.relu(self.fc(x))

    net = Marks()
    before = copy.copy(vars(net))
    assert followers(net)[0] == {}
    assert vars(net) == before and len(made) == 1 and isinstance(made[0], torch.Tensor)


@pytest.mark.parametrize(
    ("skeleton", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)), "'1' is Tanh, which no packed layer"),
        (lambda: nn.Sequential(nn.Linear(16, 16)), "there is no module '1'"),
    ],
)
def test_a_skeleton_that_does_not_fit(skeleton, message, random_masks, tmp_path):
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    sparse, _ = packed(net, random_masks, torch.randn(4, 16), BSR(4, 4), names=["0.weight"])
    save(sparse, tmp_path / "m.safetensors")
    with pytest.raises(FileError, match=message):
        load(tmp_path / "m.safetensors", net=skeleton())


@pytest.mark.parametrize("silent", [[1], "1", None])
def test_a_manifest_whose_silent_modules_are_no_paths(silent):
    text = json.dumps(json.loads(Manifest(None, "", {}, {}).write()["bayesprune"]) | {"silent": silent})
    with pytest.raises(FileError, match="the manifest is malformed"):
        Manifest.read({"bayesprune": text, "bayesprune.sha256": hashlib.sha256(text.encode()).hexdigest()})


def test_the_bias_of_a_folded_layer_is_held_against_its_size(random_masks, tmp_path):
    sparse, _ = packed(seasoned(conv_net()), random_masks, torch.randn(3, 8, 6, 6), BSR(4, 4))
    sparse[0].bias = nn.Parameter(torch.zeros(4))  # fewer than the kernel would read
    save(sparse, tmp_path / "m.safetensors")
    for skeleton in (None, conv_net()):
        with pytest.raises(FileError, match=r"'0.bias'"):
            load(tmp_path / "m.safetensors", net=skeleton)
