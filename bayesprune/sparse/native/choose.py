"""Code choices for a product: tile sizes, vector widths, and how x is read."""

from dataclasses import replace
from functools import cache, lru_cache
from typing import NamedTuple

from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.native.compiled import MOST, Entry, entry
from bayesprune.sparse.native.conv import conv_ir
from bayesprune.sparse.native.host import Isa, host_isa
from bayesprune.sparse.native.linear import ENTRY, linear_ir, scratch_bytes
from bayesprune.sparse.native.spec import Spec
from bayesprune.sparse.native.threads import share

__all__ = ["Compiled", "convolution", "product", "vector_of"]

_TILES = (1, 2, 4, 6, 8, 12, 16, 20, 24)


class Compiled(NamedTuple):
    """A compiled kernel."""

    spec: Spec
    function: Entry
    address: int
    code: object  # what holds it
    scratch: int  # bytes that a thread needs

    def run(self, arguments: int, threads: int) -> None:
        """Call it with the address of its arguments, on several threads at once."""
        if threads == 1:
            self.function(arguments)
        else:
            share(self.function, self.address, arguments, threads)


@cache
def reads_float16() -> bool:
    """Whether the processor converts float16: those without AVX2 may not, and LLVM would call what is not there."""
    return host_isa().name != "generic"


def vector_of(h: int, isa: Isa) -> int:
    """The most outputs of a block that make a whole vector: a power of two."""
    return min(h & -h, isa.lanes)


def _most(isa: Isa, h: int, lanes: int) -> int:
    """The most tokens whose sums stay in registers."""
    vectors = min(4, h // lanes)
    return (
        24 // vectors if isa.registers == 32 and isa.lanes == 16 else max(1, (isa.registers - 2 - vectors) // vectors)
    )


@lru_cache(maxsize=MOST)
def product(
    h: int, w: int, weights: str, inputs: str, tokens: int, features: int, bias: bool, activation: str
) -> Compiled:
    """The kernel for a product of ``tokens`` tokens of ``features`` inputs, compiled where that was not done before."""
    isa = host_isa()
    lanes = vector_of(h, isa)
    most = _most(isa, h, lanes)
    wanted = -(-tokens // -(-tokens // most))
    tile = min(next((t for t in _TILES if t >= wanted), most), most)
    spec = Spec(isa, h, w, weights, inputs, tile, lanes, "outputs", 0, bias, activation)
    narrow = lanes < isa.lanes and tokens >= isa.lanes // 2
    # one vector of outputs: each number of x serves one product, where one weight serves two vectors of tokens
    short = h == isa.lanes == 16 and w <= 4 and not spec.pairs and tokens >= isa.lanes
    if narrow or short:
        most = 8 if h < 4 else 4 if h < 6 else 3 if h < 12 else 2
        vectors = -(-tokens // isa.lanes)
        tile = isa.lanes * -(-vectors // -(-vectors // most))
        spec = Spec(isa, h, w, weights, inputs, tile, isa.lanes, "tokens", 0, bias, activation)
    # several tokens are packed: read where they lie, they fall into the same few sets of the cache
    elif tile == 1 and features % w == 0 and (inputs == "f32" or spec.pairs):
        spec = replace(spec, stride=w)  # of one token no other is far: one kernel serves any number of features
    return Compiled(spec, *entry(linear_ir, ENTRY, spec), scratch_bytes(spec, features))


@lru_cache(maxsize=MOST)
def convolution(
    h: int,
    w: int,
    weights: str,
    inputs: str,
    size: tuple[int, int],
    width: int,
    channels: int,
    geometry: Geometry,
    bias: bool,
    activation: str,
) -> Compiled:
    """The kernel for a convolution to ``size`` (rows, columns), over padded rows of ``width`` pixels.

    Images of ever new sizes share kernels: one that works on one row at a time knows no size but its tile's, and one
    that takes several short rows together those of such rows, of which there are few.
    """
    isa = host_isa()
    lanes = vector_of(h, isa)
    most = _most(isa, h, lanes)
    rows, columns = size
    together = 1  # rows of the result in a tile
    if columns <= most // 2:
        several = range(2, min(rows, most // columns) + 1)
        together = max((n for n in several if rows % n == 0), default=1)
    tile = together * columns
    if tile > most:
        even = [n for n in range(most // 2, most + 1) if columns % n == 0]
        tile = max(even) if even else -(-columns // -(-columns // most))
    stride = channels * geometry.stride[1]
    row, line = (columns, channels * width * geometry.stride[0]) if together > 1 else (tile, 0)
    spec = Spec(isa, h, w, weights, inputs, tile, lanes, "outputs", stride, bias, activation, row, line, True)
    return Compiled(spec, *entry(conv_ir, ENTRY, spec), 0)
