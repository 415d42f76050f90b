"""CSR (compressed sparse row): kept entries with their columns, row by row."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from bayesprune.sparse.buffers.rows import rows_of
from bayesprune.sparse.buffers.torch_layouts import sparse_csr
from bayesprune.sparse.formats.base import Format, Packed, SparseWeight, check_crow_and_col, crow_and_col, slices
from bayesprune.sparse.formats.quantised import check_bits, check_scale, precision, quantise

__all__ = ["CSR"]


@dataclass(frozen=True, repr=False)
class CSR(Format):
    """Each kept entry with its column, row by row: for masks without a pattern.

    Args:
        bits: 8 or 4 for integers with a scale per output, in memory a byte each; None for the weight's own dtype.

    >>> packed = CSR().pack(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[False, True], [True, True]]))
    >>> packed.values, packed.crow.tolist(), packed.nbytes
    (tensor([2., 3., 4.]), [0, 1, 3], 36)
    >>> packed.linear(torch.tensor([1.0, 1.0]))
    tensor([2., 7.])
    """

    gridded: ClassVar[bool] = True
    quantisable: ClassVar[bool] = True

    bits: int | None = None

    def __post_init__(self) -> None:
        check_bits(self.bits)

    def _pack(
        self, weight: Float[Tensor, "out in"], mask: Bool[Tensor, "out in"], variance: Float[Tensor, "out in"] | None
    ) -> SparseWeight:
        out, into = weight.shape
        crow, col = crow_and_col(mask)
        values = weight.new_empty(len(col), dtype=torch.int8 if self.bits else weight.dtype)
        scale = weight.new_empty(out, dtype=torch.float32) if self.bits else None
        importance = precision(variance, mask) if self.bits else None
        for part in slices(out, into):
            kept = weight[part]
            if self.bits and scale is not None:
                rows = None if importance is None else importance[part]
                kept, scale[part] = quantise(torch.where(mask[part], kept, 0), self.bits, rows)
            values[int(crow[part.start]) : int(crow[part.stop])] = kept[mask[part]]
        return SparseWeight(self, (out, into), values, crow, col, scale)

    def unpack(
        self, values: Shaped[Tensor, " nnz"], crow: Tensor, col: Tensor, shape: tuple[int, int]
    ) -> Shaped[Tensor, "out in"]:
        dense = values.new_zeros(shape)
        dense[rows_of(crow, col), col.long()] = values
        return dense

    def gather(self, dense: Shaped[Tensor, "out in"], crow: Tensor, col: Tensor) -> Shaped[Tensor, " nnz"]:
        return dense[rows_of(crow, col), col.long()]

    def to_torch(self, packed: Packed) -> Tensor:
        if self.bits:
            raise ValueError(f"torch has no sparse tensor of {self.bits} bits; take .dense().to_sparse_csr()")
        return sparse_csr(packed.values.detach(), packed.crow, packed.col, packed.shape)

    def check(self, packed: SparseWeight) -> None:
        if packed.values.dim() != 1:
            raise ValueError(f"CSR needs a vector of values, got shape {tuple(packed.values.shape)}")
        check_scale(packed.values, packed.scale, self.bits, packed.shape[0])
        check_crow_and_col(packed, *packed.shape)

    def nbytes(self, mask: Bool[Tensor, "out in"], itemsize: int) -> int:
        index = torch.int32.itemsize
        scale = 4 * mask.shape[0] if self.bits else 0
        return (
            int(mask.count_nonzero()) * ((1 if self.bits else itemsize) + index) + (mask.shape[0] + 1) * index + scale
        )
