"""The dense format: the masked weight with its zeros stored, the baseline of every other format."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from bayesprune.sparse.formats.base import Format, SparseWeight
from bayesprune.sparse.kernels.base import ACTIVATIONS

__all__ = ["Dense"]


@dataclass(frozen=True, repr=False)
class Dense(Format):
    """The masked weight as it is, zeros stored.

    >>> str(Dense()), Dense().nbytes(torch.ones(3, 4, dtype=torch.bool), itemsize=4)
    ('Dense', 48)
    """

    indexed = False

    def _pack(
        self, weight: Float[Tensor, "out in"], mask: Bool[Tensor, "out in"], variance: Float[Tensor, "out in"] | None
    ) -> SparseWeight:
        none = torch.zeros(0, dtype=torch.int32, device=weight.device)
        return SparseWeight(self, (weight.shape[0], weight.shape[1]), torch.where(mask, weight, 0), none, none)

    def unpack(self, packed: SparseWeight) -> Float[Tensor, "out in"]:
        return packed.values

    def linear(
        self, x: Shaped[Tensor, "..."], packed: SparseWeight, bias: Tensor | None, kernel: str, activation: str = ""
    ) -> Shaped[Tensor, "..."]:
        return ACTIVATIONS[activation](F.linear(x, packed.values, bias))

    def to_torch(self, packed: SparseWeight) -> Tensor:
        return packed.values.detach()

    def check(self, packed: SparseWeight) -> None:
        if tuple(packed.values.shape) != packed.shape:
            raise ValueError(f"expected values of shape {packed.shape}, got {tuple(packed.values.shape)}")

    def nbytes(self, mask: Bool[Tensor, "out in"], itemsize: int) -> int:
        return mask.numel() * itemsize
