"""The dense format: the masked weight with its zeros stored, the baseline of every other format."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from bayesprune.sparse.formats.base import Format, Packed, SparseWeight

__all__ = ["Dense"]


@dataclass(frozen=True, repr=False)
class Dense(Format):
    """The masked weight as it is, zeros stored.

    >>> str(Dense()), Dense().nbytes(torch.ones(3, 4, dtype=torch.bool), itemsize=4)
    ('Dense', 48)
    """

    is_dense: ClassVar[bool] = True

    def _pack(
        self, weight: Float[Tensor, "out in"], mask: Bool[Tensor, "out in"], variance: Float[Tensor, "out in"] | None
    ) -> SparseWeight:
        none = torch.zeros(0, dtype=torch.int32, device=weight.device)
        return SparseWeight(self, (weight.shape[0], weight.shape[1]), torch.where(mask, weight, 0), none, none)

    def unpack(
        self, values: Shaped[Tensor, "out in"], crow: Tensor, col: Tensor, shape: tuple[int, int]
    ) -> Shaped[Tensor, "out in"]:
        return values

    def gather(self, dense: Shaped[Tensor, "out in"], crow: Tensor, col: Tensor) -> Shaped[Tensor, "out in"]:
        return dense

    def to_torch(self, packed: Packed) -> Tensor:
        return packed.values.detach()

    def check(self, packed: SparseWeight) -> None:
        if tuple(packed.values.shape) != packed.shape:
            raise ValueError(f"expected values of shape {packed.shape}, got {tuple(packed.values.shape)}")

    def nbytes(self, mask: Bool[Tensor, "out in"], itemsize: int) -> int:
        return mask.numel() * itemsize
