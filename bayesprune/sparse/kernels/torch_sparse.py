"""torch's own sparse product, ``weight @ x.T``: MKL on a CPU, cuSPARSE on a GPU."""

import warnings
from functools import cache

import torch
from torch import Tensor

from bayesprune.sparse.kernels.base import Kernel

__all__ = ["TorchSparse", "end_beta_warning", "torch_tensor"]

_ON_CPU = (torch.float32, torch.float64)
_ON_GPU = (torch.float16, torch.bfloat16, *_ON_CPU)


@cache
def end_beta_warning() -> None:
    """Take the one warning that torch gives a process, that its compressed layouts are in beta, and no other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse .* tensor support is in beta state")
        index = torch.tensor([0, 0], dtype=torch.int32)
        torch.sparse_csr_tensor(index, index[:0], torch.zeros(0), size=(1, 1), check_invariants=False)


def torch_tensor(values: Tensor, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Tensor:
    """torch's own sparse tensor: ``sparse_csr`` over the same memory, or ``sparse_bsr``, which has blocks by rows."""
    end_beta_warning()
    if values.dim() == 1:
        return torch.sparse_csr_tensor(crow, col, values, size=shape, check_invariants=False)
    blocks = values.transpose(1, 2).contiguous()
    return torch.sparse_bsr_tensor(crow, col, blocks, size=shape, check_invariants=False)


class TorchSparse(Kernel):
    """CSR and BSR through torch. On a CPU float32 and float64, and of BSR only square blocks that divide the weight; on
    a CUDA GPU CSR alone, in float16 and bfloat16 too: for BSR there see :mod:`bayesprune.sparse.kernels.torch_bsr`.
    """

    name = "torch"

    def supports(self, values: Tensor, shape: tuple[int, int]) -> bool:
        if not values.numel():
            return False
        if values.is_cuda:
            return values.dim() == 1 and values.dtype in _ON_GPU
        if not values.is_cpu or values.dtype not in _ON_CPU:
            return False
        if values.dim() < 3:
            return values.dim() == 1
        _, w, h = values.shape
        return h == w > 1 and not shape[0] % h and not shape[1] % w and torch.backends.mkl.is_available()

    def run(
        self, x: Tensor, values: Tensor, crow: Tensor, col: Tensor, bias: Tensor | None, shape: tuple[int, int]
    ) -> Tensor:
        y = torch_tensor(values, crow, col, shape) @ x.T
        return y.T.contiguous() if bias is None else torch.add(y.T, bias).contiguous()
