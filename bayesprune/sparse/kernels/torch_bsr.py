"""BSR products on a GPU through ``F.linear`` on torch's BSR tensors, a prototype upstream."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.sparse.buffers.torch_layouts import sparse_bsr
from bayesprune.sparse.formats import Operands, Packed
from bayesprune.sparse.gpu.devices import triton_is_there
from bayesprune.sparse.kernels.base import Kernel

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

    def supports(self, weight: Packed) -> bool:
        values, shape, block = weight.values, weight.shape, weight.format.block
        if block is None or not values.is_cuda or values.dtype not in _DTYPES or not values.numel():
            return False
        h, w = block
        return _power_of_two(w) and _power_of_two(h) and not shape[0] % h and not shape[1] % w and triton_is_there()

    def run(self, x: Tensor, weight: Operands) -> Tensor:
        values, crow, col, bias, _, shape, *_ = weight
        tokens, padding = x.shape[0], -x.shape[0] % values.shape[2]
        blocks = sparse_bsr(values.transpose(1, 2), crow, col, shape)  # no copy: Triton reads any strides
        y = F.linear(F.pad(x, (0, 0, 0, padding)) if padding else x, blocks, bias)
        return y[:tokens].contiguous()
