"""Operands of a sparse product: a packed weight's buffers and the epilogue (scale, bias, activation)."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["Operands"]


class Operands(NamedTuple):
    """All but x of a product: the plain buffers of a packed weight ``(out, in)``, and what is done to the sums."""

    values: Tensor
    crow: Tensor
    col: Tensor
    bias: Tensor | None
    scale: Tensor | None
    shape: tuple[int, int]
    activation: str
