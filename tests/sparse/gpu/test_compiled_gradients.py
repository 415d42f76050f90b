"""The kernels of the backward pass compiled for GPUs that are not there."""

import re

import pytest
import torch
from torch import Tensor

from bayesprune.sparse.formats import BSR, Operands
from bayesprune.sparse.gpu.devices import interpreted

pytest.importorskip("triton")
if interpreted():
    pytest.skip("kernels of Triton's interpreter cannot be compiled", allow_module_level=True)

from support.compiling import MEMORY, compiled

from bayesprune.sparse.gpu.gradients import pass_of_values, pass_of_x

BLOCKS = [(16, 1), (16, 16), (24, 5), (64, 1), (64, 64), (100, 3), (128, 16), (128, 128)]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def on_meta(h: int, w: int, dtype: torch.dtype, tokens: int, integers: bool = False) -> tuple[Tensor, Tensor, Operands]:
    """A gradient, an x and a weight without memory, of which a tenth of the blocks is there."""
    out, into = 4096, 4000
    rows, columns = -(-out // h), -(-into // w)
    nnz = rows * columns // 10
    index = [torch.empty(n, dtype=torch.int32, device="meta") for n in (rows + 1, nnz)]
    values = torch.empty(nnz, w, h, dtype=torch.int8 if integers else dtype, device="meta")
    grad, x = (torch.empty(tokens, n, dtype=dtype, device="meta") for n in (out, into))
    return grad, x, Operands(values, *index, None, None, (out, into), "", BSR(h, w))


def checked(made: tuple, arch: int, dtype: torch.dtype) -> str:
    """The kernel's PTX, once it fits the device and runs on its tensor cores, its loads ahead of their use."""
    launch, _, tensors, numbers = made
    found = compiled(launch, tensors, numbers, arch)
    assert found.metadata.shared <= MEMORY[arch]
    ptx = found.asm["ptx"]
    assert "cp.async" in ptx
    assert ("mma" in ptx) == (dtype != torch.float32)  # exact float32 has none
    return ptx


@pytest.mark.parametrize("arch", MEMORY)
@pytest.mark.parametrize(("h", "w"), BLOCKS)
def test_of_x(h: int, w: int, arch: int) -> None:
    grad, _, weight = on_meta(h, w, torch.bfloat16, 512)
    ptx = checked(pass_of_x(grad, weight), arch, torch.bfloat16)
    if arch == 90:
        wide = min(max(w, 16), 64)
        assert set(re.findall(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k16", ptx)) == {str(wide)}


@pytest.mark.parametrize("arch", MEMORY)
@pytest.mark.parametrize(("h", "w"), BLOCKS)
def test_of_values(h: int, w: int, arch: int) -> None:
    grad, x, weight = on_meta(h, w, torch.bfloat16, 512)
    ptx = checked(pass_of_values(grad, x, weight), arch, torch.bfloat16)
    assert ("wgmma" in ptx) == (arch == 90)


@pytest.mark.parametrize("arch", MEMORY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("tokens", [3, 8192])
def test_other_dtypes_and_tokens(tokens: int, dtype: torch.dtype, arch: int) -> None:
    grad, x, weight = on_meta(64, 16, dtype, tokens)
    checked(pass_of_x(grad, weight), arch, dtype)
    checked(pass_of_values(grad, x, weight), arch, dtype)


@pytest.mark.parametrize("arch", MEMORY)
def test_integers(arch: int) -> None:
    grad, _, weight = on_meta(64, 16, torch.float16, 64, integers=True)
    checked(pass_of_x(grad, weight), arch, torch.float16)


@pytest.mark.parametrize("arch", MEMORY)
def test_the_largest_tiles_fit(arch: int) -> None:
    grad, x, weight = on_meta(128, 64, torch.float32, 8192)
    checked(pass_of_x(grad, weight), arch, torch.float32)
    checked(pass_of_values(grad, x, weight), arch, torch.float32)


@pytest.mark.parametrize("arch", MEMORY)
def test_one_block_row_and_column(arch: int) -> None:
    """Numbers that are 1 become constants of the kernel."""
    index = [torch.empty(n, dtype=torch.int32, device="meta") for n in (2, 1)]
    grad, x = (torch.empty(5, n, dtype=torch.float16, device="meta") for n in (64, 16))
    values = torch.empty(1, 16, 64, dtype=torch.float16, device="meta")
    weight = Operands(values, *index, None, None, (64, 16), "", BSR(64, 16))
    checked(pass_of_x(grad, weight), arch, torch.float16)
    checked(pass_of_values(grad, x, weight), arch, torch.float16)


@pytest.mark.parametrize("arch", MEMORY)
def test_strides_of_zero_and_of_columns(arch: int) -> None:
    """``sum().backward()`` hands on a gradient of stride 0."""
    _, x, weight = on_meta(64, 16, torch.float16, 64)
    grad = torch.empty((), dtype=torch.float16, device="meta").expand(64, 4096)
    for made in (pass_of_x(grad, weight), pass_of_values(grad, x.T.contiguous().T, weight)):
        assert compiled(made.launch, made.tensors, made.numbers, arch).metadata.shared <= MEMORY[arch]
