"""The backward pass of the product by a BSR weight, against float64, in Triton's interpreter."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.sparse import BSR, SparseLinear, SparseWeight
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.gpu import gradients
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.layers.conv import SparseConv2d

BLOCKS = [(16, 1), (16, 16), (64, 2), (32, 64), (128, 48), (24, 5), (100, 3), (64, 130)]
ERRORS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # of the largest result
KERNEL = KERNELS["triton"]


def packed_weight(form: BSR, out: int, into: int, dtype: torch.dtype, keep: float = 0.4) -> SparseWeight:
    """A random weight whose first block row and second block column are empty, and whose last row is full."""
    grid = torch.rand(-(-out // form.h), -(-into // form.w)) < keep
    grid[-1], grid[:, 1:2], grid[0] = True, False, False
    mask = grid.repeat_interleave(form.h, 0).repeat_interleave(form.w, 1)[:out, :into]
    return form.pack(torch.randn(out, into, dtype=dtype), mask)


def assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype and found.shape == expected.shape
    error = (found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
    assert error <= ERRORS[dtype], f"an error of {error:.1e} of the largest result"


def stored(packed: SparseWeight) -> Tensor:
    """The entries within stored blocks, as a mask."""
    ones = SparseWeight(packed.format, packed.shape, torch.ones_like(packed.values), packed.crow, packed.col)
    return ones.dense() != 0


@pytest.mark.parametrize("dtype", list(ERRORS), ids=str)
@pytest.mark.parametrize(("h", "w"), BLOCKS)
@pytest.mark.parametrize("tokens", [1, 33])
def test_against_float64(h: int, w: int, tokens: int, dtype: torch.dtype) -> None:
    out, into = 2 * h + 5, 3 * w + 20
    packed = packed_weight(BSR(h, w), out, into, dtype)
    x, grad = torch.randn(tokens, into, dtype=dtype), torch.randn(tokens, out, dtype=dtype)
    dense = packed.dense().double()
    assert_close(gradients.grad_x(grad, packed.operands()), grad.double() @ dense, dtype)
    expected = packed.format.pack(grad.double().T @ x.double(), stored(packed)).values
    assert_close(gradients.grad_values(grad, x, packed.operands()), expected, dtype)


def test_many_tokens_are_cut_in_parts() -> None:
    packed = packed_weight(BSR(16, 4), 48, 24, torch.float32)
    x, grad = torch.randn(1100, 24), torch.randn(1100, 48)
    expected = packed.format.pack(grad.double().T @ x.double(), stored(packed)).values
    found = gradients.grad_values(grad, x, packed.operands())
    assert_close(found, expected, torch.float32)
    assert torch.equal(found, gradients.grad_values(grad, x, packed.operands()))


@pytest.mark.parametrize("layout", ["expanded", "strided", "turned"])
def test_strides(layout: str) -> None:
    """``sum().backward()`` hands on a gradient of stride 0."""
    packed = packed_weight(BSR(16, 2), 50, 40, torch.float32)
    x, grad = torch.randn(20, 40), torch.randn(20, 50)
    if layout == "expanded":
        grad = torch.ones(()).expand(20, 50)
    elif layout == "strided":
        x, grad = torch.randn(20, 80)[:, ::2], torch.randn(40, 100)[::2, ::2]
    else:
        x, grad = torch.randn(40, 20).T, torch.randn(50, 20).T
    assert_close(gradients.grad_x(grad, packed.operands()), grad.double() @ packed.dense().double(), torch.float32)
    expected = packed.format.pack(grad.double().T @ x.double(), stored(packed)).values
    assert_close(gradients.grad_values(grad, x, packed.operands()), expected, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_integers_have_a_gradient_of_x(dtype: torch.dtype) -> None:
    packed = packed_weight(BSR(16, 8, bits=8), 53, 40, torch.float32)
    grad = torch.randn(20, 53, dtype=dtype)
    found = gradients.grad_x(grad, packed.operands())
    assert_close(found, grad.double() @ packed.dense().double(), dtype)


def test_the_index_by_column() -> None:
    packed = packed_weight(BSR(16, 2), 100, 60, torch.float32)
    first, block, row = gradients.transposed(packed.crow, packed.col, 30)
    rows = [r for r, n in enumerate(packed.crow.diff().tolist()) for _ in range(n)]
    for column in range(30):
        mine = [j for j, c in enumerate(packed.col.tolist()) if c == column]
        own = slice(int(first[column]), int(first[column + 1]))
        assert block[own].tolist() == mine and row[own].tolist() == [rows[j] for j in mine]


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the gradients' kernels, as they run."""
    seen: list[str] = []
    for name in ("grad_x", "grad_values"):
        run = getattr(gradients, name)
        monkeypatch.setattr(gradients, name, lambda *args, run=run, name=name: (seen.append(name), run(*args))[1])
    return seen


@pytest.mark.parametrize("activation", ["", "gelu"])
@pytest.mark.parametrize("lead", [(), (9,), (2, 3), (0,)])
def test_autograd_takes_them(lead: tuple[int, ...], activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = calls(monkeypatch)
    packed = packed_weight(BSR(16, 16), 160, 128, torch.float32, keep=0.05)
    layer = SparseLinear(packed, torch.randn(160), "triton", activation)
    twin = copy.deepcopy(layer).double()
    twin.kernel = "reference"
    x = torch.randn(*lead, 128, requires_grad=True)
    x2 = x.detach().double().requires_grad_()
    grad = torch.randn(*lead, 160)
    layer(x).backward(grad)
    twin(x2).backward(grad.double())
    assert seen == (["grad_x", "grad_values"] if lead != (0,) else [])
    for found, expected in zip((x, *layer.parameters()), (x2, *twin.parameters()), strict=True):
        torch.testing.assert_close(found.grad.double(), expected.grad, atol=1e-4, rtol=1e-4)


def test_dense_where_it_is_likely_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one input are padded to sixteen in the gradient of x, and need none in that of the values."""
    seen = calls(monkeypatch)
    layer = SparseLinear(packed_weight(BSR(32, 1), 320, 64, torch.float32, keep=0.02), None, "triton")
    x = torch.randn(4, 64, requires_grad=True)
    layer(x).square().sum().backward()
    assert seen == ["grad_values"]
    expected = (2 * layer(x) @ layer.weight).detach()
    torch.testing.assert_close(x.grad, expected)


def test_training_goes_as_with_the_reference() -> None:
    packed = packed_weight(BSR(16, 16), 160, 128, torch.float32, keep=0.05)
    layers = [SparseLinear(packed, torch.zeros(160), kernel) for kernel in ("triton", "reference")]
    layers[1].load_state_dict(copy.deepcopy(layers[0].state_dict()))
    x, y = torch.randn(20, 128), torch.randn(20, 160)
    losses = []
    for layer in layers:
        layer.values = torch.nn.Parameter(packed.values.clone())
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
        for _ in range(5):
            optimizer.zero_grad()
            loss = F.mse_loss(layer(x), y)
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(layers[0].weight, layers[1].weight)


def test_a_pointwise_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = calls(monkeypatch)
    packed = packed_weight(BSR(16, 16), 160, 128, torch.float32, keep=0.05)
    layer = SparseConv2d(packed, torch.randn(160), Geometry((1, 1)), "triton", "relu")
    weight, bias = layer.weight.detach().double().requires_grad_(), layer.bias.detach().double().requires_grad_()
    x = torch.randn(2, 128, 3, 2, requires_grad=True)
    x2 = x.detach().double().requires_grad_()
    grad = torch.randn(2, 160, 3, 2)
    layer(x).backward(grad)
    F.relu(F.conv2d(x2, weight, bias)).backward(grad.double())
    assert seen == ["grad_x", "grad_values"]
    assert_close(x.grad, x2.grad, torch.float32)
    assert_close(layer.bias.grad, bias.grad, torch.float32)
    expected = packed.format.pack(weight.grad[:, :, 0, 0], stored(packed)).values
    assert_close(layer.values.grad, expected, torch.float32)
