"""The block-sparse convolution as LLVM IR: an implicit GEMM over pixels, without im2col.

x lies as (images, rows, columns, channels), padded. A block of the weight holds ``h`` outputs × ``w`` channels of one
kernel position, and so reads ``w`` numbers at a fixed distance from each pixel: that distance is looked up per block
column, and a tile of pixels is read where it lies. Pixels of a tile lie in one row of the result, or in several where a
row is short.
"""

from llvmlite import ir

from bayesprune.sparse.native.emit import Value
from bayesprune.sparse.native.linear import ENTRY, Product
from bayesprune.sparse.native.spec import Spec

__all__ = ["ENTRY", "conv_ir"]


class _Convolution(Product):
    def place(self, tile: Value) -> tuple[Value, Value, Value]:
        e, s, v = self.e, self.spec, self.value
        across, down = e.b.srem(tile, v["across"]), e.b.sdiv(tile, v["across"])
        image, row = e.b.sdiv(down, v["down"]), e.b.srem(down, v["down"])
        first = e.mul(across, s.tile)
        pixels = e.mul(self.count, max(1, s.tile // s.row))  # of the result, in the rows of a tile
        at_x = e.add(e.b.mul(image, v["image"]), e.b.mul(row, v["line"]))
        at_x = e.b.add(at_x, e.mul(first, s.stride))
        token = e.b.add(e.b.mul(down, pixels), first)
        return at_x, token, e.minimum(e.b.sub(pixels, first), s.tile)


def conv_ir(spec: Spec) -> str:
    """The module for ``spec`` as text; its entry takes the address of the arguments, ``tokens`` the pixels of a row."""
    module = ir.Module("bayesprune")
    module.triple = spec.isa.triple
    _Convolution(module, spec)
    return str(module)
