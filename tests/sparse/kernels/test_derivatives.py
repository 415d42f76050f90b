"""Derivatives of all kinds through packed layers are those of the masked dense net."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

from bayesprune.sparse import BSR, CSR, SemiStructured
from bayesprune.sparse.activations import ACTIVATIONS
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.layers.linear import SparseLinear

pytestmark = pytest.mark.filterwarnings("ignore:.*the reference runs, and is slow")

LAYERS = {
    "CSR": (CSR(), ""),
    "CSR, GELU": (CSR(), "gelu"),
    "BSR, SiLU": (BSR(4, 2), "silu"),
    "BSR, 8 bits": (BSR(4, 1, bits=8), "relu"),
    "2:4": (SemiStructured(), "gelu_tanh"),
    "3×3": (BSR(4, 2), "silu"),
    "strided, 8 bits": (BSR(4, 4, bits=8), ""),
}


def layer_of(name: str) -> nn.Module:
    form, activation = LAYERS[name]
    if name not in ("3×3", "strided, 8 bits"):
        mask = torch.arange(20).expand(12, 20) % 4 < 2
        packed = form.pack(torch.randn(12, 20).double(), mask)
        return SparseLinear(packed, torch.randn(12).double(), "native", activation)
    packed = form.pack(torch.randn(8, 36).double(), torch.rand(8, 36) < 0.5)
    geometry = Geometry((3, 3), padding=(1, 1)) if name == "3×3" else Geometry((3, 3), (2, 2))
    return SparseConv2d(packed, torch.randn(8).double(), geometry, "native", activation)


def twin_of(layer: nn.Module) -> nn.Sequential:
    """The same in torch's own modules."""
    if isinstance(layer, SparseConv2d):
        g = layer.geometry
        made = nn.Conv2d(layer.in_channels, layer.out_channels, g.kernel, g.stride, g.padding, g.dilation, g.groups)
    else:
        made = nn.Linear(layer.in_features, layer.out_features)
    made.to(torch.float64).load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    return nn.Sequential(made, ACTIVATIONS[layer.activation].layer())


@pytest.fixture(params=LAYERS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    layer = layer_of(request.param)
    x = torch.randn(2, 4, 5, 5) if isinstance(layer, SparseConv2d) else torch.randn(3, 20)
    return layer, twin_of(layer), x.double()


def test_forward_mode(pair):
    layer, twin, x = pair
    t = torch.randn_like(x)
    torch.testing.assert_close(jvp(layer, (x,), (t,)), jvp(twin, (x,), (t,)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(jacfwd(layer)(x[:1]), jacfwd(twin)(x[:1]), rtol=1e-6, atol=1e-6)
    for frozen in (False, True):
        found = []
        layer.bias.requires_grad_(not frozen)
        layer.values.requires_grad_(not frozen and layer.values.is_floating_point())
        for net in (layer, twin):
            with forward_ad.dual_level(), torch.set_grad_enabled(not frozen):
                found.append(forward_ad.unpack_dual(net(forward_ad.make_dual(x, t))).tangent.clone())
        torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


def test_transforms_of_reverse_mode(pair):
    layer, twin, x = pair
    losses = [lambda x, net=net: net(x).square().sum() for net in (layer, twin)]
    for transform in (grad, lambda f: vmap(grad(lambda row: f(row[None]))), hessian):
        given = x[:1] if transform is hessian else x
        ours, theirs = (transform(loss)(given) for loss in losses)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(jacrev(layer)(x), jacrev(twin)(x), rtol=1e-6, atol=1e-6)


def test_gradients_of_values_under_a_transform(pair):
    layer, twin, x = pair
    if not layer.values.is_floating_point():
        pytest.skip("integers have no gradient")
    values = {"values": layer.values.detach(), "bias": layer.bias.detach()}
    weights = {name: p.detach() for name, p in twin.named_parameters()}
    per_example, dense = (
        vmap(grad(lambda v, row, net=net: functional_call(net, v, (row[None],)).square().sum()), (None, 0))(given, x)
        for net, given in ((layer, values), (twin, weights))
    )
    torch.testing.assert_close(per_example["bias"], dense["0.bias"], rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(per_example["values"], dense["0.weight"], strict=True):
        matrix = theirs.permute(0, 2, 3, 1).flatten(1) if theirs.dim() == 4 else theirs
        torch.testing.assert_close(ours, layer.format.gather(matrix, layer.crow, layer.col), rtol=1e-6, atol=1e-6)


def test_a_backward_pass_can_be_gone_through_again(pair):
    layer, twin, x = pair
    found = []
    for net in (layer, twin):
        at = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(net(at).square().sum(), at, create_graph=True)
        first.square().sum().backward()
        found.append((first.detach(), at.grad, (net if net is layer else net[0]).bias.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_second_derivatives_by_finite_differences():
    for name in ("CSR", "BSR, SiLU", "2:4", "3×3"):
        layer = layer_of(name)
        shape = (1, 4, 4, 3) if isinstance(layer, SparseConv2d) else (2, 20)
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        call = lambda x, v, b, net=layer: functional_call(net, {"values": v, "bias": b}, (x,))  # noqa: E731
        inputs = (x, layer.values.detach().requires_grad_(), layer.bias.detach().requires_grad_())
        torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


def test_what_was_worked_out_of_another_argument_counts_once():
    layer = layer_of("CSR, GELU")
    x = torch.randn(3, 20, dtype=torch.float64, requires_grad=True)
    weight = layer.weight.detach()
    found = []
    for net in (
        lambda x: functional_call(layer, {"bias": x.sum(1)[:1].expand(12)}, (x,)),
        lambda x: F.gelu(F.linear(x, weight, x.sum(1)[:1].expand(12))),
    ):
        (first,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        found.append((first, second))
    torch.testing.assert_close(*found)


def test_a_frozen_layer_needs_no_input_for_its_second_pass():
    layer = layer_of("CSR").requires_grad_(False)
    x = torch.randn(3, 20, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    dense = layer.weight.detach()
    expected = torch.autograd.functional.hessian(lambda x: F.linear(x, dense, layer.bias).pow(3).sum(), x)
    torch.testing.assert_close(second, expected.sum((0, 1)))
