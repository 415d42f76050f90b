"""The CPU kernel as a :class:`Kernel`: LLVM code made for the block, the dtype and the processor."""

import math
from functools import cache, lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.formats import Operands, Packed
from bayesprune.sparse.kernels.base import Kernel
from bayesprune.sparse.kernels.reference import Reference
from bayesprune.sparse.native.arguments import workspace

if TYPE_CHECKING:
    from bayesprune.sparse.native import choose

__all__ = ["Native"]

_DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16", torch.int8: "i8"}
_CACHE = 2**19  # bytes that stay in a core's cache from one pass over them to the next
_ALONE = 100_000  # multiply-adds under which a second thread costs more than it gives


@cache
def _available() -> bool:
    return find_spec("llvmlite") is not None


@cache
def _code() -> ModuleType:
    """The module that makes code: imported when the first kernel runs, as it needs llvmlite."""
    from bayesprune.sparse.native import choose

    return choose


def _call(
    made: "choose.Compiled", x: Tensor, y: Tensor, weight: Operands, tiles: int, work: int, tokens: int, inputs: int = 0
) -> None:
    """Run a kernel over ``tiles`` tiles, ``work`` tokens in all, on as many threads as torch has.

    Before a convolution, the walk's fields in the thread's arguments are set.
    """
    values, crow, col, bias, scale, (out, _), *_ = weight
    rows = crow.numel() - 1
    threads = torch.get_num_threads() if values.numel() * work > _ALONE else 1
    chunk, chunks = rows, 1
    if threads > 1 and tiles < 4 * threads and tiles % threads:  # whole tiles are shared out, or else parts of them
        together = max(1, 16 // made.spec.h) if made.spec.along == "tokens" else 1  # block rows turned round together
        chunks = min(rows, -(-4 * threads // tiles))
        chunk = -(-rows // (chunks * together)) * together
        chunks = -(-rows // chunk)
    values, crow, col = values.contiguous(), crow.contiguous(), col.contiguous()
    bias = None if bias is None else bias.contiguous()
    if scale is not None and (scale.dtype != torch.float32 or not scale.is_contiguous()):
        scale = scale.float().contiguous()
    space = workspace
    a = space.arguments
    a.x, a.y, a.values = x.data_ptr(), y.data_ptr(), values.data_ptr()
    a.crow, a.col = crow.data_ptr(), col.data_ptr()
    a.bias = 0 if bias is None else bias.data_ptr()
    a.scale = 0 if scale is None else scale.data_ptr()
    a.scratch, a.scratch_bytes = space.scratch(made.scratch * threads) if made.scratch else 0, made.scratch
    a.tokens, a.inputs, a.outputs = tokens, inputs, out
    a.rows, a.chunk, a.chunks, a.items = rows, chunk, chunks, tiles * chunks
    a.next = a.thread = 0  # counters that the threads share
    made.run(space.address, min(threads, tiles * chunks))


@lru_cache(maxsize=256)
def _places(geometry: Geometry, channels: int, width: int, w: int) -> Tensor:
    """Where each block column's inputs lie from a pixel on: int32, kernel positions first, then channels."""
    rows, columns = (torch.arange(n) * d for n, d in zip(geometry.kernel, geometry.dilation, strict=True))
    inputs = torch.arange(0, channels // geometry.groups, w)
    places = (rows[:, None, None] * width + columns[:, None]) * channels + inputs
    return places.flatten().to(torch.int32)


def _farthest(geometry: Geometry, channels: int, width: int) -> int:
    """The largest distance from a pixel that :func:`_places` tells."""
    down, across = ((k - 1) * d for k, d in zip(geometry.kernel, geometry.dilation, strict=True))
    return (down * width + across + 1) * channels


def _padded(nhwc: Tensor, down: int, across: int) -> Tensor:
    """The images with zeros around, in memory that the thread keeps: valid until the next call."""
    images, height, width, channels = nhwc.shape
    shape = images, height + 2 * down, width + 2 * across, channels
    wide = workspace.images(math.prod(shape) * nhwc.itemsize).view(nhwc.dtype)[: math.prod(shape)].view(shape)
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

    def supports(self, weight: Packed) -> bool:
        values = weight.values
        return values.is_cpu and values.dtype in _DTYPES and weight.format.gridded and _available()

    def takes(self, weight: Packed, inputs: torch.dtype) -> bool:
        halves = weight.values.dtype == torch.float16 or inputs == torch.float16
        return inputs in _DTYPES and self.supports(weight) and (not halves or _code().reads_float16())

    def run_fused(self, x: Tensor, weight: Operands) -> Tensor:
        (out, into), tokens = weight.shape, x.shape[0]
        h, w = weight.format.block or (1, 1)
        kinds = _DTYPES[weight.values.dtype], _DTYPES[x.dtype]
        made = _code().product(h, w, *kinds, min(tokens, 256), into, weight.bias is not None, weight.activation)
        y = x.new_empty(tokens, out)
        tiles = -(-tokens // made.spec.tile)
        _call(made, x.contiguous(), y, weight, tiles, tokens, tokens, into)
        return y

    def takes_conv(self, weight: Packed, inputs: torch.dtype, geometry: Geometry) -> bool:
        block, shape = weight.format.block, weight.shape
        if block is None or not self.takes(weight, inputs):
            return False
        h, w = block
        channels, outputs = shape[1] // (geometry.kernel[0] * geometry.kernel[1]), shape[0] // geometry.groups
        one_place = channels % w == 0 and (geometry.groups == 1 or outputs % h == 0)  # a block's position and group
        return one_place and (h % 4 == 0 or geometry.pointwise)

    def run_conv(self, x: Tensor, weight: Operands, geometry: Geometry) -> Tensor:
        images, channels, height, width = x.shape
        rows, columns = geometry.output(height, width)
        if geometry.pointwise:
            flat = x.permute(0, 2, 3, 1).reshape(-1, channels)
            return self.run_fused(flat, weight).view(images, rows, columns, weight.shape[0]).permute(0, 3, 1, 2)
        _, w, h = weight.values.shape
        kinds, size = (_DTYPES[weight.values.dtype], _DTYPES[x.dtype]), (rows, columns)
        down, across = geometry.padding
        wide = width + 2 * across
        if _farthest(geometry, channels, wide) >= 2**31:
            return Reference().run_conv(x, weight, geometry)  # the kernel reads distances of 32 bits
        made = _code().convolution(
            h, w, *kinds, size, wide, channels, geometry, weight.bias is not None, weight.activation
        )
        y = x.new_empty(images, rows, columns, weight.shape[0])
        places = _places(geometry, channels, wide, w)
        together = made.spec.tile // made.spec.row  # rows of the result in a tile
        tiles = rows // together, -(-columns // made.spec.tile) if together == 1 else 1
        image = (height + 2 * down) * wide * channels
        group_rows, group_inputs = (weight.crow.numel() - 1) // geometry.groups, channels // geometry.groups
        a = workspace.arguments
        a.table, (a.down, a.across) = places.data_ptr(), tiles
        a.line, a.image = together * channels * wide * geometry.stride[0], image
        a.group_rows, a.group_inputs = group_rows, group_inputs
        nhwc = x.permute(0, 2, 3, 1)
        # padded a few at a time, images are still in the cache when they are read
        few = max(1, _CACHE // (image * x.itemsize)) if down or across else images
        for part, into in zip(nhwc.split(few), y.split(few), strict=True):
            laid = _padded(part, down, across) if down or across else part.contiguous()
            count = len(part)
            _call(made, laid, into, weight, count * math.prod(tiles), count * rows * columns, columns)
        return y.permute(0, 3, 1, 2)

    def run(self, x: Tensor, weight: Operands) -> Tensor:
        return self.run_fused(x, weight._replace(scale=None, activation=""))
