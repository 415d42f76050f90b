"""BSR products on a GPU through ``F.linear`` on torch's BSR tensors, a prototype upstream."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.sparse.gpu.devices import triton_is_there
from bayesprune.sparse.kernels.base import Kernel
from bayesprune.sparse.kernels.torch_sparse import end_beta_warning

__all__ = ["TorchBSR"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def _power_of_two(side: int) -> bool:
    return side >= 16 and not side & (side - 1)


class TorchBSR(Kernel):
    """``F.linear(x, sparse_bsr)`` on a CUDA GPU, which torch hands to ``torch.sparse._triton_ops.bsr_dense_addmm``.

    It wants Triton, float16, bfloat16 or float32, block sides that are powers of two from 16 on, and a number of tokens
    that the block's rows divide: tokens are padded to that. float32 is summed in float64.
    """

    name = "torch_bsr"

    def supports(self, values: Tensor, shape: tuple[int, int]) -> bool:
        if values.dim() != 3 or not values.is_cuda or values.dtype not in _DTYPES or not values.numel():
            return False
        _, w, h = values.shape
        return _power_of_two(w) and _power_of_two(h) and not shape[0] % h and not shape[1] % w and triton_is_there()

    def run(
        self, x: Tensor, values: Tensor, crow: Tensor, col: Tensor, bias: Tensor | None, shape: tuple[int, int]
    ) -> Tensor:
        end_beta_warning()
        tokens, padding = x.shape[0], -x.shape[0] % values.shape[2]
        blocks = values.transpose(1, 2)  # no copy: Triton reads any strides
        weight = torch.sparse_bsr_tensor(crow, col, blocks, size=shape, check_invariants=False)
        y = F.linear(F.pad(x, (0, 0, 0, padding)) if padding else x, weight, bias)
        return y[:tokens].contiguous()
