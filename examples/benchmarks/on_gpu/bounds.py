"""The roofline (Williams et al., 2009): the least time that a product can take on a GPU of given rates. Arithmetic."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["KNOWN", "Bound", "Peaks", "Shape", "block_bound", "dense_bound", "known_peaks"]

_SUMS = 128 * 128  # float32 sums of one tile of the result that a multiprocessor's registers hold
_TOKENS = 256  # the most tokens of such a tile


@dataclass(frozen=True)
class Peaks:
    """What a GPU does in a second: multiplications and additions in half precision, bytes of its memory, of its L2."""

    flops: float
    memory: float
    l2: float


KNOWN: Mapping[str, Peaks] = MappingProxyType(
    {  # by a part of the device's name; L2 is assumed; Hopper's FLOP/s are what a large product reaches, of 989e12
        "H200": Peaks(790e12, 4.8e12, 6e12),
        "H100": Peaks(790e12, 3.35e12, 6e12),
        "A100": Peaks(312e12, 2.0e12, 6e12),
    }
)


def known_peaks(device: str) -> Peaks | None:
    """The rates in ``KNOWN`` of a device by its name; None for one that is not listed.

    >>> known_peaks("NVIDIA H200").memory
    4800000000000.0
    """
    return next((peaks for name, peaks in KNOWN.items() if name in device), None)


@dataclass(frozen=True)
class Shape:
    """A product: a weight ``(out, into)``, the tokens, and the bytes of a number."""

    out: int
    into: int
    tokens: int
    itemsize: int = 2

    @property
    def activations(self) -> int:
        """Bytes of x and of the result."""
        return self.tokens * (self.into + self.out) * self.itemsize


@dataclass(frozen=True)
class Bound:
    """Seconds that each of three limits asks for."""

    memory: float
    arithmetic: float
    l2: float

    @property
    def seconds(self) -> float:
        """The least time: the largest of the three."""
        return max(self.memory, self.arithmetic, self.l2)

    @property
    def limit(self) -> str:
        """Which of the three it is."""
        return max(("memory", "arithmetic", "l2"), key=lambda name: getattr(self, name))


def dense_bound(shape: Shape, peaks: Peaks) -> Bound:
    """The weight, x and the result once through memory; all multiplications. L2 does not limit a tiled dense product.

    >>> bound = dense_bound(Shape(4096, 4096, 512), known_peaks("H200"))
    >>> f"{bound.seconds * 1e6:.1f} µs, {bound.limit}"
    '21.7 µs, arithmetic'
    """
    weight = shape.out * shape.into
    moved = weight * shape.itemsize + shape.activations
    return Bound(moved / peaks.memory, 2 * weight * shape.tokens / peaks.flops, 0.0)


def block_bound(shape: Shape, block: tuple[int, int], blocks: int, peaks: Peaks) -> Bound:
    """The same of a weight of which ``blocks`` blocks of h outputs × w inputs are kept.

    Through memory go the kept entries, an int32 column a block, an int32 row pointer a block row, x and the result.
    Through L2: a tile of the result, h outputs × at most 256 tokens and 16,384 sums, reads each of its blocks and that
    block's inputs once, as no two block rows need the same inputs.
    """
    (h, w), kept = block, blocks * block[0] * block[1]
    indices = 4 * (blocks + -(-shape.out // h) + 1)
    moved = kept * shape.itemsize + indices + shape.activations
    tiles = -(-shape.tokens // min(_TOKENS, max(1, _SUMS // h)))
    through = blocks * w * (shape.tokens + h * tiles) * shape.itemsize
    return Bound(moved / peaks.memory, 2 * kept * shape.tokens / peaks.flops, through / peaks.l2)
