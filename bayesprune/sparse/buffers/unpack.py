"""Scatter stored values into a dense weight and gather them back, in plain torch on any dtype and device."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.sparse.buffers.geometry import Geometry

__all__ = ["conv_weight", "dense_of", "places_of", "rows_of", "values_at"]


def rows_of(crow: Tensor, col: Tensor) -> Tensor:
    """The (block) row of each stored entry: int64 ``(nnz,)``."""
    counts = crow.diff()
    rows = torch.arange(counts.numel(), device=crow.device)
    return torch.repeat_interleave(rows, counts, output_size=col.numel())


def places_of(values: Tensor, col: Tensor) -> Tensor:
    """Of semi-structured values ``(out, in / 2)``: where each lies in its four inputs, int64 ``(out, in / 4, 2)``.

    ``col`` holds sixteen places of two bits in each int32, the first in the lowest bits.
    """
    shifts = torch.arange(0, 32, 2, dtype=torch.int32, device=col.device)
    places = (col[:, None] >> shifts & 3).flatten()[: values.numel()]
    return places.view(values.shape[0], values.shape[1] // 2, 2).long()


def dense_of(values: Tensor, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Tensor:
    """Unpack CSR ``(nnz,)``, BSR ``(nnz, w, h)`` or semi-structured ``(out, in / 2)`` values to a dense ``(out, in)``.

    >>> crow, col = torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([1, 0], dtype=torch.int32)
    >>> dense_of(torch.tensor([5.0, 7.0]), crow, col, (2, 2))
    tensor([[0., 5.],
            [7., 0.]])
    """
    out, into = shape
    if values.dim() == 2:
        pairs = values.unflatten(1, (into // 4, 2))
        return values.new_zeros(out, into // 4, 4).scatter(2, places_of(values, col), pairs).flatten(1)
    blocks = values if values.dim() == 3 else values[:, None, None]
    _, w, h = blocks.shape
    grid = blocks.new_zeros(crow.numel() - 1, -(-into // w), h, w)
    grid[rows_of(crow, col), col.long()] = blocks.transpose(1, 2)
    return grid.transpose(1, 2).reshape(grid.shape[0] * h, grid.shape[1] * w)[:out, :into]


def values_at(dense: Tensor, values: Tensor, crow: Tensor, col: Tensor) -> Tensor:
    """The entries of ``dense`` at the stored places, as ``values`` has them; 0 in padding."""
    if values.dim() == 2:
        return dense.unflatten(1, (dense.shape[1] // 4, 4)).gather(2, places_of(values, col)).flatten(1)
    rows, cols = rows_of(crow, col), col.long()
    if values.dim() == 1:
        return dense[rows, cols]
    _, w, h = values.shape
    out, into = dense.shape
    down, across = (crow.numel() - 1) * h, -(-into // w) * w
    padded = F.pad(dense, (0, across - into, 0, down - out))
    return padded.reshape(down // h, h, across // w, w).permute(0, 2, 3, 1)[rows, cols]


def conv_weight(matrix: Tensor, geometry: Geometry) -> Tensor:
    """The weight ``(outputs, channels, rows, columns)`` of a convolution's matrix, whose channels are fastest."""
    return matrix.reshape(matrix.shape[0], *geometry.kernel, -1).permute(0, 3, 1, 2)
