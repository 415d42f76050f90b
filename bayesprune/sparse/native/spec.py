"""``Spec``: what one compiled kernel is specialised for."""

from dataclasses import dataclass
from typing import Literal

from bayesprune.sparse.native.host import Isa

__all__ = ["Spec"]


@dataclass(frozen=True)
class Spec:
    """One kernel: what is fixed when it is compiled.

    Args:
        isa: for which processor.
        h, w: the block's outputs and inputs; 1 × 1 for CSR.
        weights: ``f32``, ``bf16``, ``f16`` or ``i8``.
        inputs: ``f32``, ``bf16`` or ``f16``, of x, bias and y.
        tile: tokens that are worked on together.
        lanes: numbers in a vector.
        along: whether vectors run along a block's outputs or along tokens.
        stride: 0 where x is packed first; else the distance of two tokens in x, which is read where it lies.
        bias: whether there is one.
        row, line: where a tile is of pixels: how many of them lie in a row, and, of several rows, their distance in x.
        table: whether a block column's place in x is looked up, as a convolution's is.
        activation: applied to the result: a name from ``bayesprune.sparse.activations.ACTIVATIONS``.
    """

    isa: Isa
    h: int
    w: int
    weights: str
    inputs: str
    tile: int
    lanes: int
    along: Literal["outputs", "tokens"]
    stride: int
    bias: bool
    activation: str
    row: int = 0
    line: int = 0
    table: bool = False

    def offset(self, token: int) -> int:
        """Where a token of the tile begins in x, read where it lies: in pairs if they are what is read."""
        per = 2 if self.pairs else 1
        down, across = divmod(token, self.row) if self.row else (0, token)
        return (down * self.line + across * self.stride) // per

    @property
    def pairs(self) -> bool:
        """Whether products of bfloat16 pairs are taken as such."""
        return (
            self.isa.dot_bf16
            and self.along == "outputs"
            and self.lanes == self.isa.lanes
            and self.inputs == "bf16"
            and self.weights in ("bf16", "i8")
            and self.w % 2 == 0
        )
