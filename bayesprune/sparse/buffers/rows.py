"""Which row each stored entry lies in."""

import torch
from torch import Tensor

__all__ = ["rows_of"]


def rows_of(crow: Tensor, col: Tensor) -> Tensor:
    """The (block) row of each stored entry: int64 ``(nnz,)``.

    >>> rows_of(torch.tensor([0, 2, 2, 3]), torch.tensor([4, 7, 1]))
    tensor([0, 0, 2])
    """
    counts = crow.diff()
    rows = torch.arange(counts.numel(), device=crow.device)
    return torch.repeat_interleave(rows, counts, output_size=col.numel())
