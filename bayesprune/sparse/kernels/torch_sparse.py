"""torch's own sparse product, ``weight @ x.T``: MKL on a CPU."""

import warnings
from functools import cache

import torch
from torch import Tensor

from bayesprune.sparse.kernels.base import Kernel

__all__ = ["TorchSparse", "torch_tensor"]


@cache
def _beta_warning_over() -> None:
    # torch warns once a process that its compressed layouts are in beta: take that one warning, and no other.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse .* tensor support is in beta state")
        index = torch.tensor([0, 0], dtype=torch.int32)
        torch.sparse_csr_tensor(index, index[:0], torch.zeros(0), size=(1, 1), check_invariants=False)


def torch_tensor(values: Tensor, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Tensor:
    """torch's own sparse tensor: ``sparse_csr`` over the same memory, or ``sparse_bsr``, which has blocks by rows."""
    _beta_warning_over()
    if values.dim() == 1:
        return torch.sparse_csr_tensor(crow, col, values, size=shape, check_invariants=False)
    blocks = values.transpose(1, 2).contiguous()
    return torch.sparse_bsr_tensor(crow, col, blocks, size=shape, check_invariants=False)


class TorchSparse(Kernel):
    """CSR and BSR through torch; of BSR only square blocks that divide the weight. float32 and float64 on a CPU."""

    name = "torch"

    def supports(self, values: Tensor, shape: tuple[int, int]) -> bool:
        if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64) or not values.numel():
            return False
        if values.dim() == 1:
            return True
        _, w, h = values.shape
        return h == w > 1 and not shape[0] % h and not shape[1] % w and torch.backends.mkl.is_available()

    def run(
        self, x: Tensor, values: Tensor, crow: Tensor, col: Tensor, bias: Tensor | None, shape: tuple[int, int]
    ) -> Tensor:
        y = torch_tensor(values, crow, col, shape) @ x.T
        return y.T.contiguous() if bias is None else torch.add(y.T, bias).contiguous()
