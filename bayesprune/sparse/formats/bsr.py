"""BSR (block sparse row): kept blocks of outputs × inputs with their block columns, block row by block row."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from bayesprune.sparse.buffers.rows import rows_of
from bayesprune.sparse.buffers.torch_layouts import sparse_bsr
from bayesprune.sparse.formats.base import Format, Packed, SparseWeight, check_crow_and_col, crow_and_col, slices
from bayesprune.sparse.formats.quantised import check_bits, check_scale, precision, quantise

__all__ = ["BSR"]


@dataclass(frozen=True, repr=False)
class BSR(Format):
    """Blocks of ``h`` outputs × ``w`` inputs. A block with one kept entry is stored whole, the rest of it as zeros.

    Edges may be ragged: the last blocks reach over the weight's edge and hold zeros there.

    Args:
        h, w: the block's outputs and inputs.
        bits: 8 or 4 for integers with a scale per output, in memory a byte each; None for the weight's own dtype.

    Raises:
        ValueError: a side is not a positive integer.

    >>> packed = BSR(2, 2).pack(torch.ones(3, 4), torch.tensor([[True] * 2 + [False] * 2] * 3))
    >>> packed.values.shape, packed.crow.tolist(), packed.col.tolist()
    (torch.Size([2, 2, 2]), [0, 1, 2], [0, 0])
    """

    gridded: ClassVar[bool] = True
    quantisable: ClassVar[bool] = True
    convolves: ClassVar[bool] = True

    h: int
    w: int
    bits: int | None = None

    def __post_init__(self) -> None:
        for name, size in (("h", self.h), ("w", self.w)):
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"BSR needs {name} to be an integer ≥ 1, got {size!r}")
        check_bits(self.bits)

    @property
    def block(self) -> tuple[int, int]:
        return self.h, self.w

    def _padded(self, x: Tensor) -> Tensor:
        """``x`` as ``(block rows, h, block columns, w)``, with zeros past its edges."""
        rows, cols = self.grid((x.shape[0], x.shape[1]))
        down, across = rows * self.h - x.shape[0], cols * self.w - x.shape[1]
        return (F.pad(x, (0, across, 0, down)) if down or across else x).reshape(rows, self.h, cols, self.w)

    def touched(self, mask: Bool[Tensor, "out in"]) -> Bool[Tensor, "rows cols"]:
        """The blocks that hold a kept entry."""
        out, into = mask.shape
        grid = mask.new_empty(self.grid((out, into)))
        for rows in slices(grid.shape[0], self.h * into):
            grid[rows] = self._padded(mask[self._outputs(rows)]).any(3).any(1)
        return grid

    def _outputs(self, rows: slice) -> slice:
        return slice(rows.start * self.h, rows.stop * self.h)

    def _pack(
        self, weight: Float[Tensor, "out in"], mask: Bool[Tensor, "out in"], variance: Float[Tensor, "out in"] | None
    ) -> SparseWeight:
        out, into = weight.shape
        grid = self.touched(mask)
        crow, col = crow_and_col(grid)
        values = weight.new_empty(len(col), self.w, self.h, dtype=torch.int8 if self.bits else weight.dtype)
        scale = weight.new_empty(out, dtype=torch.float32) if self.bits else None
        importance = precision(variance, mask) if self.bits else None
        for rows in slices(grid.shape[0], self.h * into):
            part = self._outputs(rows)
            kept = torch.where(mask[part], weight[part], 0)
            if self.bits and scale is not None:
                kept, scale[part] = quantise(kept, self.bits, None if importance is None else importance[part])
            blocks = self._padded(kept).permute(0, 2, 3, 1)
            values[int(crow[rows.start]) : int(crow[rows.stop])] = blocks[grid[rows]]
        return SparseWeight(self, (out, into), values, crow, col, scale)

    def unpack(
        self, values: Shaped[Tensor, "nnz w h"], crow: Tensor, col: Tensor, shape: tuple[int, int]
    ) -> Shaped[Tensor, "out in"]:
        rows, cols = self.grid(shape)
        grid = values.new_zeros(rows, cols, self.h, self.w)
        grid[rows_of(crow, col), col.long()] = values.transpose(1, 2)
        return grid.transpose(1, 2).reshape(rows * self.h, cols * self.w)[: shape[0], : shape[1]]

    def gather(self, dense: Shaped[Tensor, "out in"], crow: Tensor, col: Tensor) -> Shaped[Tensor, "nnz w h"]:
        return self._padded(dense).permute(0, 2, 3, 1)[rows_of(crow, col), col.long()]

    def to_torch(self, packed: Packed) -> Tensor:
        if self.bits:
            raise ValueError(f"torch has no sparse tensor of {self.bits} bits; take .dense().to_sparse_csr()")
        if packed.shape[0] % self.h or packed.shape[1] % self.w:
            raise ValueError(
                f"torch.sparse_bsr needs blocks that divide the weight, got {self} on shape {packed.shape}; "
                "take CSR, or .dense().to_sparse_csr()"
            )
        blocks = packed.values.detach().transpose(1, 2).contiguous()
        return sparse_bsr(blocks, packed.crow, packed.col, packed.shape)

    def check(self, packed: SparseWeight) -> None:
        if packed.values.dim() != 3 or packed.values.shape[1:] != (self.w, self.h):
            raise ValueError(f"{self} needs values (blocks, {self.w}, {self.h}), got {tuple(packed.values.shape)}")
        check_scale(packed.values, packed.scale, self.bits, packed.shape[0])
        check_crow_and_col(packed, *self.grid(packed.shape))

    def nbytes(self, mask: Bool[Tensor, "out in"], itemsize: int) -> int:
        blocks, index = int(self.touched(mask).count_nonzero()), torch.int32.itemsize
        size = self.h * self.w * (1 if self.bits else itemsize) + index
        return blocks * size + (-(-mask.shape[0] // self.h) + 1) * index + (4 * mask.shape[0] if self.bits else 0)
