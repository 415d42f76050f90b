"""Derivatives within torch.compile, of what it compiled, recomputed and under autocast, are those of the dense net."""

from collections.abc import Callable, Iterator

import pytest
import torch
from support.elsewhere import Elsewhere
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.utils.checkpoint import checkpoint

from bayesprune.sparse import BSR, CSR, SemiStructured
from bayesprune.sparse.activations import ACTIVATIONS
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.layers.linear import SparseLinear

pytestmark = pytest.mark.filterwarnings("ignore:.*the reference runs, and is slow", "ignore:.*batching rule")


def linear(form: CSR | BSR | SemiStructured, activation: str, kernel: str = "native") -> tuple[nn.Module, nn.Module]:
    mask = torch.arange(20).expand(12, 20) % 4 < 2
    layer = SparseLinear(form.pack(torch.randn(12, 20), mask), torch.randn(12), kernel, activation)
    return layer, nn.Linear(20, 12)


def convolution(form: BSR, activation: str, geometry: Geometry) -> tuple[nn.Module, nn.Module]:
    inputs = 4 // geometry.groups * geometry.kernel[0] * geometry.kernel[1]
    packed = form.pack(torch.randn(8, inputs), torch.rand(8, inputs) < 0.5)
    g = geometry
    layer = SparseConv2d(packed, torch.randn(8), geometry, "native", activation)
    return layer, nn.Conv2d(4, 8, g.kernel, g.stride, g.padding, g.dilation, g.groups)


LAYERS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "CSR": lambda: linear(CSR(), "gelu"),
    "CSR by embedding_bag": lambda: linear(CSR(), "", "embedding_bag"),
    "BSR": lambda: linear(BSR(4, 2), "silu"),
    "8 bits": lambda: linear(BSR(4, 1, bits=8), "relu"),
    "2:4": lambda: linear(SemiStructured(), ""),
    "3×3": lambda: convolution(BSR(4, 1), "silu", Geometry((3, 3), padding=(1, 1))),
    "1×1": lambda: convolution(BSR(4, 1), "", Geometry((1, 1))),
    "grouped, 8 bits": lambda: convolution(BSR(4, 1, bits=8), "gelu", Geometry((3, 3), (2, 2), groups=2)),
}


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    torch._dynamo.reset()
    return torch.compile(function, backend="aot_eager")


def total(net: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: net(x).square().sum()


def of_rows(net: nn.Module) -> Callable[[Tensor], Tensor]:
    return vmap(grad(lambda row: net(row[None]).square().sum()))


def dual(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad(), forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, torch.ones_like(x)))).tangent.clone()


def recomputed(net: nn.Module, x: Tensor, reentrant: bool) -> Tensor:
    x = x.clone().requires_grad_()
    checkpoint(lambda z: net(z), x, use_reentrant=reentrant).square().sum().backward()
    assert x.grad is not None
    return x.grad


def twice_recomputed(net: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    y = checkpoint(net, x, use_reentrant=False)
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    return torch.autograd.grad(first.square().sum(), x)[0]


def tangent(net: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: jvp(net, (x,), (torch.ones_like(x),))[1]


COMPILED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "compiled jvp": lambda net, x: compiled(tangent(net))(x),
    "compiled grad": lambda net, x: compiled(grad(total(net)))(x),
    "compiled vmap": lambda net, x: compiled(lambda x: vmap(lambda row: net(row[None]))(x))(x),
    "compiled gradients of rows": lambda net, x: compiled(of_rows(net))(x),
    "compiled jacrev": lambda net, x: compiled(lambda x: jacrev(net)(x))(x[:1]),
    "compiled jacfwd": lambda net, x: compiled(lambda x: jacfwd(net)(x))(x[:1]),
    "compiled hessian": lambda net, x: compiled(lambda x: hessian(total(net))(x))(x[:1]),
    "forward mode of what is compiled": lambda net, x: dual(compiled(lambda x: net(x)), x),
    "vmap of what is compiled": lambda net, x: vmap(compiled(lambda row: net(row[None])))(x),
    "compiled checkpoint": lambda net, x: recomputed(compiled(lambda x: net(x)), x, False),  # type: ignore[arg-type]
}
EAGER: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "checkpoint": lambda net, x: recomputed(net, x, False),
    "checkpoint, reentrant": lambda net, x: recomputed(net, x, True),
    "checkpoint, twice": twice_recomputed,
    "jvp": lambda net, x: tangent(net)(x),
    "jacrev": lambda net, x: jacrev(net)(x),
    "gradients of rows": lambda net, x: of_rows(net)(x),
    "Hessian times vector": lambda net, x: jvp(grad(total(net)), (x,), (torch.ones_like(x),))[1],
    "vmap of vmap": lambda net, x: vmap(vmap(lambda row: net(row[None])))(torch.stack([x, 2 * x])),
    "batched backward": lambda net, x: torch.autograd.functional.jacobian(net, x[:1], vectorize=True),
}


def off(name: str, how: str) -> float:
    """How far a derivative of a packed layer is from the dense one's in float64, relative to the largest entry."""
    derivative = {**EAGER, **COMPILED}[how]
    torch.manual_seed(0)
    layer, dense = LAYERS[name]()
    dense.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    twin = nn.Sequential(dense, ACTIVATIONS[layer.activation].layer()).double()
    x = torch.randn(2, 4, 5, 5) if isinstance(layer, SparseConv2d) else torch.randn(3, 20)
    with torch.autocast("cpu", enabled=False):
        truth = derivative(twin, x.double())
    found = derivative(layer, x)
    assert found.shape == truth.shape
    return float((found - truth).detach().abs().max() / truth.abs().max())


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    """A process in which no types are checked, which the compiler would have to trace too."""
    with Elsewhere("sparse.kernels.test_compiled_derivatives") as process:
        yield process


@pytest.mark.parametrize("how", EAGER)
@pytest.mark.parametrize("name", LAYERS)
def test_recomputed_and_batched(name: str, how: str) -> None:
    assert off(name, how) <= 1e-4


@pytest.mark.parametrize("how", EAGER)
@pytest.mark.parametrize("name", ["CSR", "8 bits", "3×3"])
def test_under_autocast_layers_keep_their_dtype(name: str, how: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert off(name, how) <= 0.03


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param(name, how, marks=() if (name, how) == ("CSR", "compiled jvp") else pytest.mark.slow)
        for name in ("CSR", "8 bits", "2:4", "3×3")
        for how in COMPILED
    ],
)
def test_compiled(name: str, how: str, elsewhere: Elsewhere) -> None:
    assert elsewhere("off", name, how) <= 1e-4
