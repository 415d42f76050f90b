"""The reference: unpack, then the dense product. Any dtype, any device, never fast."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.sparse.geometry import Geometry
from bayesprune.sparse.kernels.base import ACTIVATIONS, Kernel, Operands

__all__ = ["Reference", "conv_weight", "dense_of", "grad_values", "rows_of", "values_at"]


def rows_of(crow: Tensor, col: Tensor) -> Tensor:
    """The (block) row of each stored entry: int64 ``(nnz,)``."""
    counts = crow.diff()
    rows = torch.arange(counts.numel(), device=crow.device)
    return torch.repeat_interleave(rows, counts, output_size=col.numel())


def dense_of(values: Tensor, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Tensor:
    """Unpack CSR ``(nnz,)`` or BSR ``(nnz, w, h)`` values to a dense ``(out, in)``.

    >>> crow, col = torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([1, 0], dtype=torch.int32)
    >>> dense_of(torch.tensor([5.0, 7.0]), crow, col, (2, 2))
    tensor([[0., 5.],
            [7., 0.]])
    """
    blocks = values if values.dim() == 3 else values[:, None, None]
    _, w, h = blocks.shape
    out, into = shape
    grid = blocks.new_zeros(crow.numel() - 1, -(-into // w), h, w)
    grid[rows_of(crow, col), col.long()] = blocks.transpose(1, 2)
    return grid.transpose(1, 2).reshape(grid.shape[0] * h, grid.shape[1] * w)[:out, :into]


def grad_values(grad: Tensor, x: Tensor, values: Tensor, crow: Tensor, col: Tensor) -> Tensor:
    """The gradient of the stored values: ``gradᵀ @ x`` at the stored places, of ``values``'s shape; 0 in padding."""
    return values_at(grad.T @ x, values, crow, col)


def values_at(dense: Tensor, values: Tensor, crow: Tensor, col: Tensor) -> Tensor:
    """The entries of ``dense`` at the stored places, as ``values`` has them; 0 in padding."""
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


class Reference(Kernel):
    """Builds the dense weight at every call and uses ``F.linear``."""

    name = "reference"
    fallback = True

    def supports(self, values: Tensor, shape: tuple[int, int]) -> bool:
        return True

    def takes_conv(self, values: Tensor, inputs: torch.dtype, geometry: Geometry, shape: tuple[int, int]) -> bool:
        return True

    def run_conv(self, x: Tensor, weight: Operands, geometry: Geometry) -> Tensor:
        values, crow, col, bias, scale, shape, activation = weight
        g, dense = geometry, conv_weight(dense_of(values.to(x.dtype), crow, col, shape), geometry)
        if scale is not None:
            dense = dense * scale.to(x.dtype)[:, None, None, None]
        return ACTIVATIONS[activation](F.conv2d(x, dense, bias, g.stride, g.padding, g.dilation, g.groups))

    def run(
        self, x: Tensor, values: Tensor, crow: Tensor, col: Tensor, bias: Tensor | None, shape: tuple[int, int]
    ) -> Tensor:
        return F.linear(x, dense_of(values, crow, col, shape), bias)
