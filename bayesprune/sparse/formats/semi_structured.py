"""2:4 semi-structured sparsity: two of four consecutive inputs kept, for the sparse tensor cores of a GPU."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from bayesprune.sparse.formats.base import Format, Packed, SparseWeight, slices

__all__ = ["SemiStructured"]

_IN_AN_INT = 16  # places of two bits


def _packed(places: Tensor) -> Tensor:
    """Places 0 to 3 as int32, sixteen in each, the first in the lowest bits."""
    whole = places.new_zeros(-(-places.numel() // _IN_AN_INT), _IN_AN_INT, dtype=torch.int32)
    whole.view(-1)[: places.numel()] = places.flatten()
    shifts = torch.arange(0, 32, 2, dtype=torch.int32, device=places.device)
    return (whole << shifts).sum(1).to(torch.int32)  # the highest place may make it negative


def _places(col: Tensor, out: int, into: int) -> Tensor:
    """Where each value lies in its four inputs: int64 ``(out, in / 4, 2)``."""
    shifts = torch.arange(0, 32, 2, dtype=torch.int32, device=col.device)
    return (col[:, None] >> shifts & 3).flatten()[: out * (into // 2)].view(out, into // 4, 2).long()


@dataclass(frozen=True, repr=False)
class SemiStructured(Format):
    """At most two of every four inputs in a row are kept: ``NM(2, 4)``, or any mask that happens to be so.

    Two values are stored for each four inputs, ``(out, in / 2)``, were one a zero, and where they lie: two bits each,
    sixteen in each int32 of ``col``. ``crow`` is empty. It gains on a GPU alone; elsewhere the reference runs.

    Mishra et al. 2021, *Accelerating Sparse Deep Neural Networks*, arXiv:2104.08378.

    >>> packed = SemiStructured().pack(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[False, True, False, True]]))
    >>> packed.values, packed.col, packed.dense()
    (tensor([[2., 4.]]), tensor([13], dtype=torch.int32), tensor([[0., 2., 0., 4.]]))
    """

    of_inputs: ClassVar[tuple[int, int]] = (2, 4)

    def refusal(self, mask: Bool[Tensor, "out in"]) -> str | None:
        if mask.shape[1] % 4:
            return f"{self} needs a number of inputs that 4 divides, got {mask.shape[1]}"
        for rows in slices(*mask.shape):
            most = int(mask[rows].unflatten(1, (-1, 4)).sum(2).max()) if mask.shape[1] else 0
            if most > 2:
                return f"{self} keeps at most 2 of every 4 inputs in a row, the mask keeps {most}"
        return None

    def _pack(
        self, weight: Float[Tensor, "out in"], mask: Bool[Tensor, "out in"], variance: Float[Tensor, "out in"] | None
    ) -> SparseWeight:
        out, into = weight.shape
        values = weight.new_empty(out, into // 2)
        places = torch.empty(out, into // 2, dtype=torch.uint8, device=weight.device)
        for rows in slices(out, into):
            kept = mask[rows].unflatten(1, (-1, 4))
            first = kept.to(torch.uint8).argsort(dim=2, descending=True, stable=True)[..., :2].sort(2).values
            entries = torch.where(kept, weight[rows].unflatten(1, (-1, 4)), 0)
            values[rows], places[rows] = entries.gather(2, first).flatten(1), first.flatten(1).to(torch.uint8)
        none = torch.zeros(0, dtype=torch.int32, device=weight.device)
        return SparseWeight(self, (out, into), values, none, _packed(places))

    def unpack(
        self, values: Shaped[Tensor, "out half"], crow: Tensor, col: Tensor, shape: tuple[int, int]
    ) -> Shaped[Tensor, "out in"]:
        out, into = shape
        pairs = values.unflatten(1, (into // 4, 2))
        return values.new_zeros(out, into // 4, 4).scatter(2, _places(col, out, into), pairs).flatten(1)

    def gather(self, dense: Shaped[Tensor, "out in"], crow: Tensor, col: Tensor) -> Shaped[Tensor, "out half"]:
        out, into = dense.shape
        return dense.unflatten(1, (into // 4, 4)).gather(2, _places(col, out, into)).flatten(1)

    def to_torch(self, packed: Packed) -> Tensor:
        if not packed.values.is_cuda:
            raise ValueError("torch.sparse.to_sparse_semi_structured needs a CUDA GPU; take .dense()")
        return torch.sparse.to_sparse_semi_structured(
            self.unpack(packed.values.detach(), packed.crow, packed.col, packed.shape)
        )

    def check(self, packed: SparseWeight) -> None:
        values, crow, col, (out, into) = packed.values, packed.crow, packed.col, packed.shape
        if into % 4 or tuple(values.shape) != (out, into // 2) or not values.is_floating_point():
            raise ValueError(
                f"{self} of shape {packed.shape} needs floating-point values (out, in / 2), in fours of inputs, got "
                f"{values.dtype} of shape {tuple(values.shape)}"
            )
        words = -(-values.numel() // _IN_AN_INT)
        if col.dtype != torch.int32 or tuple(col.shape) != (words,) or crow.dtype != torch.int32 or crow.numel():
            raise ValueError(
                f"{self} needs {words} places of int32 in col and an empty crow, got {col.dtype} of shape "
                f"{tuple(col.shape)} and {crow.dtype} of shape {tuple(crow.shape)}"
            )
        if packed.scale is not None:
            raise ValueError(f"{self} has no scale")
        places = _places(col, out, into)
        if bool((places[..., 0] >= places[..., 1]).any()):
            raise ValueError("the two places of every four inputs must rise")

    def nbytes(self, mask: Bool[Tensor, "out in"], itemsize: int) -> int:
        kept = mask.numel() // 2
        return kept * itemsize + -(-kept // _IN_AN_INT) * torch.int32.itemsize
