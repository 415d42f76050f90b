"""Our own kernel: machine code made for the block, the dtype and the processor, through LLVM."""

import ctypes
import threading
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bayesprune.sparse.geometry import Geometry
from bayesprune.sparse.kernels.base import Kernel, Operands

if TYPE_CHECKING:
    from bayesprune.sparse.native.choose import Compiled

__all__ = ["Native"]

_DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16", torch.int8: "i8"}
_Arguments = ctypes.c_int64 * 25
_ALONE = 100_000  # multiply-adds under which a second thread costs more than it gives


@cache
def _available() -> bool:
    return find_spec("llvmlite") is not None


_local = threading.local()


def _scratch(size: int) -> int:
    """The address of ``size`` bytes that this thread keeps from one call to the next."""
    kept: Tensor | None = getattr(_local, "scratch", None)
    if kept is None or kept.numel() < size:
        kept = _local.scratch = torch.empty(size, dtype=torch.uint8)
    return -(-kept.data_ptr() // 64) * 64


def _call(
    made: "Compiled",
    x: Tensor,
    y: Tensor,
    weight: Operands,
    tiles: int,
    work: int,
    tokens: int,
    inputs: int = 0,
    walk: tuple[int, ...] = (),
) -> None:
    """Run a kernel over ``tiles`` tiles, ``work`` tokens in all, on as many threads as torch has.

    The numbers stand in the order of ``bayesprune.sparse.native.spec.ARGS``; ``walk`` is its end, a convolution's.
    """
    from bayesprune.sparse.native.threads import run

    values, crow, col, bias, scale, (out, _), _ = weight
    spec, rows = made.spec, crow.numel() - 1
    threads = torch.get_num_threads() if values.numel() * work > _ALONE else 1
    chunks = 1 if threads == 1 or tiles >= 4 * threads else min(rows, -(-4 * threads // tiles))
    together = max(1, 16 // spec.h) if spec.along == "tokens" else 1  # block rows that are turned round together
    chunk = -(-rows // (max(chunks, 1) * together)) * together
    chunks = -(-rows // chunk) if rows else 0
    values, bias = values.contiguous(), None if bias is None else bias.contiguous()
    scale = None if scale is None else scale.contiguous().float()
    tensors = (t.data_ptr() if t is not None else 0 for t in (x, y, values, crow, col, bias, scale))
    arguments = _Arguments(
        *tensors,
        *(_scratch(made.scratch * threads + 64), made.scratch, tokens, inputs, out, rows, chunk, chunks),
        *(tiles * chunks, 0, 0),
        *walk,
    )
    run(made.function, made.address, ctypes.addressof(arguments), min(threads, max(tiles * chunks, 1)))


@cache
def _places(geometry: Geometry, channels: int, width: int, w: int) -> Tensor:
    """Where each block column's inputs lie from a pixel on: int32, kernel positions first, then channels."""
    rows, columns = (torch.arange(n) * d for n, d in zip(geometry.kernel, geometry.dilation, strict=True))
    inputs = torch.arange(0, channels // geometry.groups, w)
    places = (rows[:, None, None] * width + columns[:, None]) * channels + inputs
    return places.flatten().to(torch.int32)


def _padded(x: Tensor, down: int, across: int) -> Tensor:
    """x as (images, rows, columns, channels) with zeros around."""
    nhwc = x.permute(0, 2, 3, 1)
    if not down and not across:
        return nhwc.contiguous()
    images, height, width, channels = nhwc.shape
    wide = x.new_empty(images, height + 2 * down, width + 2 * across, channels)
    for edge in (wide[:, :down], wide[:, height + down :], wide[:, :, :across], wide[:, :, width + across :]):
        edge.zero_()
    wide[:, down : height + down, across : width + across] = nhwc
    return wide


class Native(Kernel):
    """Any block, ragged edges; float32, bfloat16, float16 and int8 weights on a CPU, with bias and activation fused.

    Needs llvmlite and no compiler. A new block, dtype, number of inputs or size of batch is compiled when it is first
    met (about a second) and kept on disk.
    """

    name = "native"
    fuses = True

    def takes(self, values: Tensor, shape: tuple[int, int], inputs: torch.dtype) -> bool:
        return self.supports(values, shape) and inputs in _DTYPES

    def supports(self, values: Tensor, shape: tuple[int, int]) -> bool:
        return values.device.type == "cpu" and values.dtype in _DTYPES and _available()

    def run_fused(self, x: Tensor, weight: Operands) -> Tensor:
        from bayesprune.sparse.native.choose import product

        (out, into), tokens = weight.shape, x.shape[0]
        _, w, h = weight.values.shape if weight.values.dim() == 3 else (0, 1, 1)
        kinds = _DTYPES[weight.values.dtype], _DTYPES[x.dtype]
        made = product(h, w, *kinds, min(tokens, 256), into, weight.bias is not None, weight.activation)
        y = x.new_empty(tokens, out)
        tiles = -(-tokens // made.spec.tile)
        _call(made, x.contiguous(), y, weight, tiles, tokens, tokens, into)
        return y

    def takes_conv(self, values: Tensor, inputs: torch.dtype, geometry: Geometry, channels: int) -> bool:
        if not self.takes(values, (0, 0), inputs) or values.dim() != 3:
            return False
        _, w, h = values.shape
        return channels % w == 0 and (h % 4 == 0 or geometry.pointwise)

    def run_conv(self, x: Tensor, weight: Operands, geometry: Geometry) -> Tensor:
        from bayesprune.sparse.native.choose import convolution

        images, channels, height, width = x.shape
        rows, columns = geometry.output(height, width)
        if geometry.pointwise:
            flat = x.permute(0, 2, 3, 1).reshape(-1, channels)
            return self.run_fused(flat, weight).view(images, rows, columns, weight.shape[0]).permute(0, 3, 1, 2)
        nhwc = _padded(x, *geometry.padding)
        _, w, h = weight.values.shape
        kinds = _DTYPES[weight.values.dtype], _DTYPES[x.dtype]
        across, size, biased = nhwc.shape[2], (rows, columns), weight.bias is not None
        made = convolution(h, w, *kinds, size, across, channels, geometry, biased, weight.activation)
        y = x.new_empty(images, rows, columns, weight.shape[0])
        together = made.spec.tile // made.spec.row  # rows of the result in a tile
        one_row = together == 1
        down, along = rows // together, -(-columns // made.spec.tile) if one_row else 1
        places = _places(geometry, channels, across, w)
        group_rows, group_inputs = (weight.crow.numel() - 1) // geometry.groups, channels // geometry.groups
        line, image = together * made.spec.line, nhwc[0].numel()
        walk = (places.data_ptr(), along, down, line, image, group_rows, group_inputs)
        _call(made, nhwc, y, weight, images * down * along, images * rows * columns, columns, walk=walk)
        return y.permute(0, 3, 1, 2)

    def run(
        self, x: Tensor, values: Tensor, crow: Tensor, col: Tensor, bias: Tensor | None, shape: tuple[int, int]
    ) -> Tensor:
        return self.run_fused(x, Operands(values, crow, col, bias, None, shape, ""))
