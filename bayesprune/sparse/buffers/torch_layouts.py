"""torch's own compressed layouts over plain buffers, without the warning that they are in beta."""

import warnings
from functools import cache

import torch
from torch import Tensor

__all__ = ["sparse_bsr", "sparse_csr"]


@cache
def _end_beta_warning() -> None:
    """Take the one warning that torch gives a process, that its compressed layouts are in beta, and no other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse .* tensor support is in beta state")
        index = torch.tensor([0, 0], dtype=torch.int32)
        torch.sparse_csr_tensor(index, index[:0], torch.zeros(0), size=(1, 1), check_invariants=False)


def sparse_csr(values: Tensor, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Tensor:
    """``torch.sparse_csr`` over the same memory."""
    _end_beta_warning()
    return torch.sparse_csr_tensor(crow, col, values, size=shape, check_invariants=False)


def sparse_bsr(blocks: Tensor, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Tensor:
    """``torch.sparse_bsr`` over the same memory, from blocks by rows: ``(nnz, h, w)``."""
    _end_beta_warning()
    return torch.sparse_bsr_tensor(crow, col, blocks, size=shape, check_invariants=False)
