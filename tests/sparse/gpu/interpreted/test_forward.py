"""The product by a BSR weight, against float64, in Triton's interpreter."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bayesprune.sparse import BSR, CSR, SparseLinear, SparseWeight
from bayesprune.sparse.activations import ACTIVATIONS
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.gpu.launch import Call
from bayesprune.sparse.gpu.tuning import Config, Problem, candidates
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.layers.conv import SparseConv2d

BLOCKS = [(16, 1), (16, 16), (32, 32), (64, 16), (64, 64), (128, 64), (48, 3), (24, 24), (32, 5), (100, 2)]
ERRORS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # of the largest result
KERNEL = KERNELS["triton"]


def packed_weight(h: int, w: int, out: int, into: int, dtype: torch.dtype, bits: int | None = None) -> SparseWeight:
    """A random weight whose first block row is empty and whose last is full."""
    grid = torch.rand(-(-out // h), -(-into // w)) < 0.4
    grid[0], grid[-1] = False, True
    mask = grid.repeat_interleave(h, 0).repeat_interleave(w, 1)[:out, :into]
    return BSR(h, w, bits).pack(torch.randn(out, into, dtype=dtype), mask)


def exact(x: Tensor, packed: SparseWeight, bias: Tensor | None, activation: str = "") -> Tensor:
    sums = x.double() @ packed.dense().double().T
    return ACTIVATIONS[activation](sums if bias is None else sums + bias.double())


def assert_close(y: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert y.dtype == dtype
    assert y.shape == expected.shape
    error = (y.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
    assert error <= ERRORS[dtype], f"an error of {error:.1e} of the largest result"


@pytest.mark.parametrize("dtype", list(ERRORS), ids=str)
@pytest.mark.parametrize(("h", "w"), BLOCKS)
@pytest.mark.parametrize("tokens", [1, 7, 37, 65])
def test_ragged_blocks_and_tokens(h: int, w: int, tokens: int, dtype: torch.dtype) -> None:
    out, into = 2 * h + 5, 2 * w + 67
    packed = packed_weight(h, w, out, into, dtype)
    x, bias = torch.randn(tokens, into, dtype=dtype), torch.randn(out, dtype=dtype)
    assert KERNEL.takes(packed, dtype)
    y = KERNEL.run_fused(x, packed.operands(bias, "relu"))
    assert_close(y, exact(x, packed, bias, "relu"), dtype)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("tokens", [3, 20])
def test_bias_and_activation(activation: str, biased: bool, tokens: int) -> None:
    packed = packed_weight(16, 4, 70, 96, torch.float32)
    x, bias = torch.randn(tokens, 96), torch.randn(70) if biased else None
    y = KERNEL.run_fused(x, packed.operands(bias, activation))
    assert_close(y, exact(x, packed, bias, activation), torch.float32)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_activations_of_what_is_not_finite_or_huge(activation: str) -> None:
    packed = packed_weight(16, 4, 16, 8, torch.float32)
    special = torch.tensor([float("nan"), float("-inf"), 1e30, -1e30, 90.0, -90.0, 1e-30, -0.0])
    bias = special.repeat(2)
    y = KERNEL.run_fused(torch.zeros(1, 8), packed.operands(bias, activation))
    torch.testing.assert_close(y[0], ACTIVATIONS[activation](bias), equal_nan=True)


@pytest.mark.parametrize("dtype", list(ERRORS), ids=str)
@pytest.mark.parametrize(("h", "w"), [(16, 1), (64, 16), (48, 3), (128, 64)])
@pytest.mark.parametrize("tokens", [2, 19])
def test_int8_values_with_a_scale_per_output(h: int, w: int, tokens: int, dtype: torch.dtype) -> None:
    packed = packed_weight(h, w, h + 9, 150, torch.float32, bits=8)
    x, bias = torch.randn(tokens, 150, dtype=dtype), torch.randn(h + 9, dtype=dtype)
    assert KERNEL.takes(packed, dtype)
    y = KERNEL.run_fused(x, packed.operands(bias, "gelu"))
    assert_close(y, exact(x, packed, bias, "gelu"), dtype)


@pytest.mark.parametrize("tokens", [1, 40])
def test_a_weight_without_values_leaves_the_bias(tokens: int) -> None:
    packed = BSR(16, 2).pack(torch.randn(33, 10), torch.zeros(33, 10, dtype=torch.bool))
    bias = torch.randn(33)
    y = KERNEL.run_fused(torch.randn(tokens, 10), packed.operands(bias, "relu"))
    assert torch.equal(y, bias.relu().expand(tokens, 33))


STRIDED = {
    "transposed": lambda: torch.randn(96, 21).T,
    "every other input": lambda: torch.randn(21, 192)[:, ::2],
    "every other token": lambda: torch.randn(42, 96)[::2],
    "expanded": lambda: torch.randn(1, 96).expand(21, 96),
    "part of a row": lambda: torch.randn(21, 100)[:, 3:99],
    "one token of many": lambda: torch.randn(96, 4)[:, 2:3].T,
}


@pytest.mark.parametrize("kind", STRIDED)
@pytest.mark.parametrize("w", [1, 32])
def test_x_may_be_strided(kind: str, w: int) -> None:
    x, packed = STRIDED[kind](), packed_weight(16, w, 40, 96, torch.float32)
    assert_close(KERNEL.run_fused(x, packed.operands(None)), exact(x, packed, None), torch.float32)


A100 = 163 * 1024, 108
PROBLEMS = {
    f"{h}x{w}, {rows} rows of {entries}, {tokens} tokens": Problem(
        torch.float32, torch.float32, False, h, w, rows, entries, tokens, *A100, aligned=w < 64
    )
    for h, w, rows, entries, tokens in [
        (16, 1, 2, 64, 64),
        (32, 32, 1, 512, 4),
        (64, 16, 1, 512, 64),
        (48, 3, 1, 512, 2),
        (16, 64, 1024, 512, 64),
        (128, 8, 1, 4096, 8),
    ]
}


@pytest.mark.parametrize("named", PROBLEMS)
def test_each_configuration_gives_the_same(named: str) -> None:
    problem = PROBLEMS[named]
    h, w, tokens = problem.h, problem.w, problem.tokens - 1
    out, into = 2 * h + 3, max(3 * w + 1, 100)
    packed = packed_weight(h, w, out, into, torch.float32)
    x, bias = torch.randn(tokens, into), torch.randn(out)
    weight, expected = packed.operands(bias, "gelu_tanh"), exact(x, packed, bias, "gelu_tanh")
    found = candidates(problem)
    for config in [*found, *(c._replace(split=3) for c in found if not c.few)]:
        assert_close(Call(config, x, weight)(x, weight), expected, torch.float32)


def test_wider_tiles_give_the_same() -> None:
    packed = packed_weight(32, 8, 70, 130, torch.float16)
    x = torch.randn(300, 130, dtype=torch.float16)
    weight = packed.operands(None)
    for tile, turned in [(128, False), (256, True)]:
        y = Call(Config(False, tile, 64, 1, turned, 8, 3), x, weight)(x, weight)
        assert_close(y, exact(x, packed, None), torch.float16)


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize(("h", "w"), [(16, 16), (48, 5)])
def test_nothing_is_read_or_written_past_the_edges(h: int, w: int, few: bool) -> None:
    tokens, out, into = 5, h + 3, 2 * w + 1
    packed = packed_weight(h, w, out, into, torch.float32)
    around = torch.full((64 + tokens * into + 512,), float("nan"))
    x = around[64 : 64 + tokens * into].view(tokens, into)
    x.copy_(torch.randn(tokens, into))
    results = torch.full((64 + tokens * out + 4096,), 7.0)
    y = results[64 : 64 + tokens * out]
    weight = packed.operands(None)
    call = Call(Config(few, 8 if few else 16, 16, 1, False, 4, 3), x, weight)
    rows = packed.crow.numel() - 1
    call.product(rows, (x, *weight[:3], None, None, y), (tokens, tokens, into, out, rows, into, 1))
    assert_close(y.view(tokens, out), exact(x, packed, None), torch.float32)
    assert bool((results[:64] == 7).all()) and bool((results[64 + tokens * out :] == 7).all())


@pytest.mark.parametrize("lead", [(5,), (2, 3), (0,), ()])
def test_through_the_op_and_the_layer(lead: tuple[int, ...]) -> None:
    packed, bias = packed_weight(32, 4, 60, 52, torch.float32), torch.randn(60)
    x = torch.randn(*lead, 52)
    expected = exact(x, packed, bias, "relu")
    layer = SparseLinear(packed, bias, "triton", "relu")
    y = layer(x)
    with torch.no_grad():
        again = layer(x)
    assert torch.equal(y, again)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_layer_in_half_precision_after_the_fact() -> None:
    packed, bias = packed_weight(16, 8, 40, 64, torch.float32, bits=8), torch.randn(40)
    layer = copy.deepcopy(SparseLinear(packed, bias, "triton")).half()
    x = torch.randn(6, 64, dtype=torch.float16)
    with torch.no_grad():
        assert_close(layer(x), exact(x, packed, bias), torch.float16)


@pytest.mark.parametrize("images", [1, 3])
def test_pointwise_convolution(images: int) -> None:
    conv = nn.Conv2d(32, 48, 1)
    mask = torch.rand(3, 4).repeat_interleave(16, 0).repeat_interleave(8, 1) < 0.5
    matrix = conv.weight.detach().flatten(1)
    packed = BSR(16, 8).pack(matrix, mask)
    geometry = Geometry((1, 1))
    assert KERNEL.takes_conv(packed, torch.float32, geometry)
    assert not KERNEL.takes_conv(packed, torch.float32, Geometry((1, 1), (2, 2)))
    conv.weight.data = (matrix * mask)[:, :, None, None]
    x = torch.randn(images, 32, 5, 7)
    with torch.no_grad():
        y = SparseConv2d(packed, conv.bias, geometry, "triton")(x)
        torch.testing.assert_close(y, conv(x), rtol=1e-5, atol=1e-5)


def test_what_it_takes() -> None:
    packed = packed_weight(16, 4, 32, 8, torch.float32)
    assert KERNEL.takes(packed, torch.float32)
    assert not KERNEL.takes(packed, torch.bfloat16)
    assert not KERNEL.takes(replace(packed, values=packed.values.double()), torch.float64)
    assert not KERNEL.takes(CSR().pack(torch.ones(32, 8), torch.ones(32, 8) > 0), torch.float32)
    for h in (8, 129):
        assert not KERNEL.supports(packed_weight(h, 4, 2 * h, 8, torch.float32))
