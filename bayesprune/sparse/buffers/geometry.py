"""Convolution geometry: output sizes, padding, strides and groups."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Geometry", "conv_weight", "plainly_strided"]


@dataclass(frozen=True)
class Geometry:
    """Of a two-dimensional convolution: (rows, columns) each, and the number of groups.

    >>> Geometry((3, 3), (2, 2), (1, 1)).output(8, 9)
    (4, 5)
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def output(self, height: Any, width: Any) -> tuple[Any, Any]:
        """Rows and columns of the result for an input of ``height`` × ``width``: numbers, or a compiler's symbols."""
        sizes = zip((height, width), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        rows, columns = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
        return rows, columns

    @property
    def pointwise(self) -> bool:
        """Whether it is a matrix product of each pixel's channels."""
        ones = (1, 1)
        return (self.kernel, self.stride, self.padding, self.groups) == (ones, ones, (0, 0), 1)


def plainly_strided(x: Tensor) -> Tensor:
    """``x``, contiguous, with the strides that its shape alone gives; differentiable.

    With one channel or one pixel, a tensor is contiguous and channels-last at once, and by its strides may look like
    either: torch 2.13's convolution then reads and writes memory that is not its own in rare shapes.
    """
    return x.contiguous().view(-1).view(x.shape)


def conv_weight(matrix: Tensor, geometry: Geometry) -> Tensor:
    """The weight ``(outputs, channels, rows, columns)`` of a convolution's matrix, whose channels are fastest."""
    return matrix.reshape(matrix.shape[0], *geometry.kernel, -1).permute(0, 3, 1, 2)
