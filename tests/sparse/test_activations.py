"""An activation is one value: every kernel computes it, nets fuse it, files hold it."""

import warnings
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.patterns import Block
from bayesprune.sparse import BSR, CSR, SparseLinear, export, load, save
from bayesprune.sparse.activations import ACTIVATIONS, activation_in, activation_of
from bayesprune.sparse.bench.products import dense_twin
from bayesprune.sparse.kernels import KERNELS

NAMES = [name for name in ACTIVATIONS if name]
ONE = CSR().pack(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))  # its product is its input
needs_llvm = pytest.mark.skipif(not KERNELS["native"].supports(ONE), reason="needs llvmlite")


@needs_llvm
@pytest.mark.parametrize("name", NAMES)
def test_compiled_functions_are_those_of_float64(name):
    x = torch.cat([torch.linspace(-130, 130, 20_001), torch.logspace(-30, 30, 601), -torch.logspace(-30, 30, 601)])
    with torch.no_grad():
        found = SparseLinear(ONE, None, "native", name)(x[:, None])[:, 0].double()
    expected = ACTIVATIONS[name](x.double())
    assert bool(((found - expected).abs() <= 5e-7 * x.double().abs()).all())
    far = x < -40  # where the function is 0, or next to it
    assert bool((found[far].abs() <= 1e-14).all())


@needs_llvm
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_comes_out_as_in_float64(name):
    x = torch.tensor([[float("nan")], [float("inf")], [float("-inf")]])
    with torch.no_grad():
        found = SparseLinear(ONE, None, "native", name)(x)
    torch.testing.assert_close(found, ACTIVATIONS[name](x.double()).float(), equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_module_and_its_activation_know_each_other(name):
    activation = ACTIVATIONS[name]
    assert activation_of(activation.layer()) is activation
    assert activation_in(activation.function) is activation
    x = torch.randn(100, dtype=torch.float64)
    torch.testing.assert_close(activation.layer()(x), activation(x), rtol=0, atol=0)


def test_other_modules_are_none():
    class Own(nn.SiLU):
        pass

    assert all(activation_of(m) is None for m in (nn.Tanh(), Own(), nn.Identity(), nn.Linear(1, 1)))
    assert activation_in(torch.tanh) is None and activation_of(F.relu) is None


@pytest.fixture
def ours_wins(monkeypatch):
    def timed(runners, **kwargs):
        return {name: 1.0 if name.endswith("native") else 2.0 for name in runners}, ""

    monkeypatch.setattr(import_module("bayesprune.sparse.planning.planner"), "timed", timed)


@needs_llvm
@pytest.mark.parametrize("form", [BSR(8, 1), BSR(8, 2, bits=8)], ids=str)
def test_silu_is_fused_and_survives_the_file(form, random_masks, masked_dense, ours_wins, tmp_path):
    net = nn.Sequential(nn.Linear(24, 32), nn.SiLU(), nn.Linear(32, 16), nn.BatchNorm1d(16), nn.SiLU()).eval()
    masks, x = random_masks(net, 0.4, Block(8, 1), names=["0.weight", "2.weight"]), torch.randn(7, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, masks, example=x, formats={"*": form})
    assert [type(m).__name__ for m in sparse] == ["SparseLinear", "Identity", "SparseLinear", "Identity", "Identity"]
    assert sparse[0].activation == sparse[2].activation == "silu"
    near = 0.05 if form.bits else 1e-5
    torch.testing.assert_close(sparse(x), masked_dense(net, masks)(x), rtol=near, atol=near)
    torch.testing.assert_close(dense_twin(sparse)(x), sparse(x), rtol=1e-5, atol=1e-6)
    for compress in (False, True):
        save(sparse, tmp_path / "m.bp", compress=compress)
        again = load(tmp_path / "m.bp")
        assert again[0].activation == "silu"
        torch.testing.assert_close(again(x), sparse(x), rtol=0, atol=0.05 if compress else 0)


@needs_llvm
def test_a_transformer_layer_with_silu(random_masks, masked_dense, ours_wins, tmp_path):
    block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, activation=F.silu, batch_first=True)
    net = nn.Sequential(block).eval()
    masks, x = random_masks(net, 0.4, Block(8, 1), names=["0.linear1.weight"]), torch.randn(2, 5, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, masks, example=x, formats={"*": BSR(8, 1)})
    assert sparse[0].linear1.activation == "silu"
    torch.testing.assert_close(sparse(x), masked_dense(net, masks)(x), rtol=1e-4, atol=1e-5)
    for saved in (sparse, net):
        save(saved, tmp_path / "m.safetensors")
        assert torch.equal(load(tmp_path / "m.safetensors")(x), saved(x))


@needs_llvm
@pytest.mark.parametrize("kernel", ["native", "reference"])
def test_gradients_through_silu(kernel):
    mask = torch.rand(12, 20) < 0.4
    layer = SparseLinear(BSR(4, 1).pack(torch.randn(12, 20), mask), torch.randn(12), kernel, "silu")
    dense = layer.weight.detach().clone().requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()
    x = torch.randn(5, 20, requires_grad=True)
    x2 = x.detach().clone().requires_grad_()
    layer(x).square().sum().backward()
    F.silu(F.linear(x2, dense, bias)).square().sum().backward()
    torch.testing.assert_close(x.grad, x2.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.bias.grad, bias.grad, rtol=1e-4, atol=1e-4)
    form = layer.format
    torch.testing.assert_close(layer.values.grad, form.gather(dense.grad, layer.crow, layer.col), rtol=1e-4, atol=1e-4)
