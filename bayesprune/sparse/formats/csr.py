"""CSR (compressed sparse row): kept entries with their columns, row by row."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from bayesprune.sparse.buffers.unpack import dense_of
from bayesprune.sparse.formats.base import Format, SparseWeight, check_crow_and_col, crow_and_col, slices
from bayesprune.sparse.formats.quantised import check_bits, check_scale, precision, quantise, scaled
from bayesprune.sparse.kernels.ops import csr_linear
from bayesprune.sparse.kernels.torch_sparse import torch_tensor

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

    def unpack(self, packed: SparseWeight) -> Float[Tensor, "out in"]:
        return scaled(dense_of(packed.values, packed.crow, packed.col, packed.shape), packed.scale)

    def linear(
        self, x: Shaped[Tensor, "..."], packed: SparseWeight, bias: Tensor | None, kernel: str, activation: str = ""
    ) -> Shaped[Tensor, "..."]:
        return csr_linear(
            x, packed.values, packed.crow, packed.col, bias, packed.scale, *packed.shape, kernel, activation
        )

    def to_torch(self, packed: SparseWeight) -> Tensor:
        if self.bits:
            raise ValueError(f"torch has no sparse tensor of {self.bits} bits; take .dense().to_sparse_csr()")
        return torch_tensor(packed.values.detach(), packed.crow, packed.col, packed.shape)

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
