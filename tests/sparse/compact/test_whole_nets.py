"""Whole nets made smaller: the masked dense net's results, plain nets to save, export and train, FLOPs as counted."""

import copy
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from support.compact_nets import MASKS, NETS, architectures, call, heads, masked, outputs, scrambled, spread
from support.paths import ROOT
from torch import nn

import bayesprune as bp
from bayesprune import nets
from bayesprune.sparse.bench.flops import flops
from bayesprune.sparse.compact import compact
from bayesprune.sparse.layers.attention import SparseAttention

TORCHS = ("lenet-300-100", "lenet-5", "vgg", "encoder, norm first", "encoder, norm last")  # known without their classes


def apart(a, b):
    """The largest difference, relative to the largest number."""
    return float((a - b).abs().max() / b.abs().max())


def tensors(net):
    return {name: x.detach().clone() for name, x in net.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def entries(net):
    return sum(x.numel() for x in net.parameters())


def compacted(name, kind, keep=0.5):
    """The net, its example, the masked dense net, and the smaller one."""
    torch.manual_seed(0)
    net, x = NETS[name]()
    masks = MASKS[kind](scrambled(net), keep)
    before, classes = tensors(net), repr(net)
    made = compact(net, {}, masks, example=x)
    assert same(tensors(net), before) and repr(net) == classes, "the user's net was touched"
    return net, x, masked(net, masks), made


@pytest.fixture(scope="module")
def halved():
    """By net: the same with half its output channels gone, and heads where it has some."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = compacted(name, "halves")
        return made[name]

    return get


def halves(net, keep):
    return {**outputs(net, keep), **heads(net, keep)}


@pytest.fixture(autouse=True)
def _with_halves(monkeypatch):
    monkeypatch.setitem(MASKS, "halves", halves)


@pytest.mark.parametrize("name", NETS)
def test_results_are_those_of_the_masked_dense_net(name, halved):
    net, x, dense, made = halved(name)
    with torch.no_grad():
        assert apart(call(made.net, x), call(dense, x)) <= 1e-5
        more = (
            {k: torch.cat([v, v]) for k, v in x.items() if k != "mask"}
            if isinstance(x, Mapping)
            else 3 * torch.cat([x, x])
        )
        assert apart(call(made.net, more), call(dense, more)) <= 1e-5  # no size of the example is in it
    assert entries(made.net) < 0.9 * entries(net)
    assert flops(made.net, x) < 0.9 * flops(net, x)
    assert not made.net.training
    assert made.masks.keys() <= dict(made.net.named_parameters()).keys()


def kinds_of(name):
    has_heads = name in ("vit", "own vit") or name.startswith("encoder")
    return [kind for kind in MASKS if kind != "heads" or has_heads]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("keep", [0.2, 0.6])
@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in NETS for kind in kinds_of(name)])
def test_results_whichever_channels_are_empty(name, kind, keep, seed):
    torch.manual_seed(seed)
    net, x = NETS[name]()
    masks = MASKS[kind](scrambled(net), keep)
    made, dense = compact(net, {}, masks, example=x), masked(net, masks)
    with torch.no_grad():
        assert apart(call(made.net, x), call(dense, x)) <= 1e-5
        again = masked(made.net, made.masks)  # what is left of the masks takes nothing away
        assert torch.equal(call(again, x), call(made.net, x))


@pytest.mark.parametrize("name", NETS)
def test_it_comes_back_from_its_file(name, halved, tmp_path):
    net, x, _, made = halved(name)
    path = tmp_path / "m.safetensors"
    bp.save(made.net, path)
    loaded = bp.load(path, net=None if name in TORCHS else net)
    with torch.no_grad():
        assert torch.equal(call(loaded, x), call(made.net, x))
    assert repr(loaded) == repr(made.net)
    if name not in TORCHS:
        with pytest.raises(bp.FileError, match="this file needs its net"):
            bp.load(path)


FRESH = """
import sys
sys.path[:0] = sys.argv[1:]
import torch, bayesprune as bp
from bayesprune import nets
from bayesprune.sparse.checks import call
for name, skeleton in {"vgg": None, "encoder, norm first": None, "resnet18": nets.resnet18(width=8)}.items():
    x, y = torch.load(f"{name}.pt")
    with torch.no_grad():
        assert torch.equal(call(bp.load(f"{name}.safetensors", net=skeleton), x), y), name
assert "pyro" not in sys.modules
"""


def test_a_fresh_process_gives_the_same(halved, tmp_path):
    for name in ("vgg", "encoder, norm first", "resnet18"):
        _, x, _, made = halved(name)
        bp.save(made.net, tmp_path / f"{name}.safetensors")
        with torch.no_grad():
            torch.save((x, call(made.net, x)), tmp_path / f"{name}.pt")
    root = ROOT
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", FRESH, str(root)], cwd=tmp_path, check=True, env=env)


def by_hand(net, example):
    """Two for each multiply-add, from the shapes of what each layer takes and gives."""
    total, handles = 0, []

    def note(module, args, kwargs, y):
        nonlocal total
        if isinstance(module, nn.Linear):
            total += 2 * y.numel() * module.in_features
        elif isinstance(module, nn.Conv2d):
            total += 2 * y.numel() * module.in_channels // module.groups * math.prod(module.kernel_size)
        else:  # attention without its projections, which are linear layers where they are called
            query = (args[0] if args else kwargs["x"]).shape
            batch, length, dim = query
            inner = module.num_heads * module.head_dim
            total += 2 * 2 * batch * length * length * inner
            if isinstance(module, nn.MultiheadAttention):
                total += 2 * batch * length * dim * 4 * inner

    kinds = (nn.Linear, nn.Conv2d, nn.MultiheadAttention, SparseAttention, architectures.OwnAttention)
    for module in net.modules():
        if isinstance(module, kinds):
            handles.append(module.register_forward_hook(note, with_kwargs=True))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad():
        call(net, example)
    torch.backends.mha.set_fastpath_enabled(fast)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("name", NETS)
def test_flops_are_those_counted_by_hand(name, halved):
    net, x, _, made = halved(name)
    assert flops(net, x) == by_hand(net, x)
    assert flops(made.net, x) == by_hand(made.net, x)


def test_flops_of_a_chain_are_those_of_what_its_masks_keep():
    net, x = (
        nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 5)),
        torch.randn(7, 20),
    )
    masks = {name: spread(net, name, bp.Channel(0), 0.4) for name in ("0.weight", "2.weight")}
    first, second = (int(mask[:, 0].sum()) for mask in masks.values())
    made = compact(scrambled(net), {}, masks, example=x)
    assert flops(made.net, x) == 2 * 7 * (20 * first + first * second + second * 5)
    assert entries(made.net) == 21 * first + (first + 1) * second + (second + 1) * 5


@pytest.mark.parametrize("name", NETS)
def test_it_is_copied_cast_restored_and_trained(name, halved):
    _, x, _, made = halved(name)
    net = copy.deepcopy(made.net)
    blank = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in blank.parameters():
            parameter.zero_()
        blank.load_state_dict(net.state_dict())
        y = call(net, x)
        assert torch.equal(call(blank, x), y)
        wide = (
            {k: v.double() if v.is_floating_point() else v for k, v in x.items()}
            if isinstance(x, Mapping)
            else x.double()
        )
        assert apart(call(copy.deepcopy(net).double(), wide).float(), y) < 1e-4
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(2):
        loss = F.mse_loss(call(net, x), torch.zeros_like(y))
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[1] < losses[0]
    call(net.train(), x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def as_inputs(x):
    return ((), dict(x)) if isinstance(x, Mapping) else ((x,), {})


@pytest.mark.parametrize("name", NETS)
def test_torch_export_gives_the_same(name, halved):
    _, x, _, made = halved(name)
    args, kwargs = as_inputs(x)
    if name.startswith("encoder"):  # whose mask torch.export cannot look into; torch's own layers likewise
        kwargs.pop("mask")
    with torch.no_grad():
        program = torch.export.export(copy.deepcopy(made.net), args, kwargs)
        assert apart(program.module()(*args, **kwargs), made.net(*args, **kwargs)) <= 1e-5


@pytest.mark.parametrize(
    "name", [n if n in ("resnet18", "vit") else pytest.param(n, marks=pytest.mark.slow) for n in NETS]
)
def test_onnx_runtime_gives_the_same(name, halved, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    _, x, _, made = halved(name)
    args, kwargs = as_inputs(x)
    kwargs.pop("mask", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(copy.deepcopy(made.net), args, kwargs=kwargs, dynamo=True, verbose=False)
    program.save(tmp_path / "m.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    given = dict(zip((i.name for i in session.get_inputs()), (*args, *kwargs.values()), strict=True))
    (y,) = session.run(None, {name: value.numpy() for name, value in given.items()})
    with torch.no_grad():
        assert apart(torch.from_numpy(y), made.net(*args, **kwargs)) <= 1e-5


def test_a_deep_net_of_many_channels_that_stand_in_for_constants():
    torch.manual_seed(0)
    net, x = scrambled(architectures.densenet(growth=4, layers=(10, 10))), torch.randn(1, 3, 8, 8)
    masks = outputs(net, 0.5)
    made = compact(net, {}, masks, example=x)
    with torch.no_grad():
        assert apart(made.net(x), masked(net, masks)(x)) <= 1e-5
    assert flops(made.net, x) < 0.5 * flops(net, x)


class Reshaped(architectures.OwnAttention):
    """Has the width of its input written into what it gives."""

    def forward(self, x):
        n, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).reshape(n, tokens, dim))


def test_where_a_size_is_written_into_a_forward_the_rest_goes_all_the_same(monkeypatch):
    monkeypatch.setattr(architectures, "OwnAttention", Reshaped)
    net, x = NETS["own vit"]()
    masks = halves(scrambled(net), 0.5)
    made = compact(net, {}, masks, example=x)
    assert "a size is written into the forward of blocks.0.attention" in made.reasons["blocks.0.attention.qkv.weight"]
    assert made.net.blocks[0].attention.num_heads == 4 and made.net.blocks[0].mlp[0].out_features < 96
    with torch.no_grad():
        assert apart(made.net(x), masked(net, masks)(x)) <= 1e-5


class Turns(nn.Module):
    """Does with its input what the input says."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


class Picks(nn.Module):
    """Leaves out examples, so that the size of what it gives depends on the data."""

    def forward(self, x):
        return x[x[:, 0] > 0]


@pytest.mark.parametrize(("kind", "named"), [(Turns, "2"), (Picks, "2")])
def test_a_net_that_cannot_be_followed_is_refused_with_the_module_named(kind, named):
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), kind(), nn.Linear(8, 3)).eval()
    masks = {"0.weight": spread(net, "0.weight", bp.Channel(0), 0.4)}
    before = tensors(net)
    with pytest.raises(ValueError, match=rf"{named}.*{kind.__name__}"):
        compact(net, {}, masks, example=torch.randn(4, 6))
    assert same(tensors(net), before)
    with pytest.raises(ValueError, match=rf"{named}.*{kind.__name__}"):
        bp.export(net, {}, masks, example=torch.randn(4, 6), compact=True)


def test_own_classes_of_the_skeleton_stay_as_they_were(tmp_path):
    net, x = nets.resnet18(width=8).eval(), torch.randn(2, 3, 32, 32)
    before = tensors(net)
    made = compact(net, {}, outputs(net, 0.5), example=x)
    bp.save(made.net, tmp_path / "m.safetensors")
    bp.load(tmp_path / "m.safetensors", net=net)
    assert same(tensors(net), before)
    with pytest.raises(bp.FileError, match=r"does not fit the net: .* cannot be made smaller"):
        bp.load(tmp_path / "m.safetensors", net=nets.resnet18(width=16))
