"""torch's own sparse product, ``weight @ x.T``: MKL on a CPU, cuSPARSE on a GPU."""

import torch
from torch import Tensor

from bayesprune.sparse.formats import Operands, Packed
from bayesprune.sparse.kernels.base import Kernel

__all__ = ["TorchSparse"]

_ON_CPU = (torch.float32, torch.float64)
_ON_GPU = (torch.float16, torch.bfloat16, *_ON_CPU)


class TorchSparse(Kernel):
    """CSR and BSR through torch. On a CPU float32 and float64, and of BSR only square blocks that divide the weight; on
    a CUDA GPU CSR alone, in float16 and bfloat16 too: for BSR there see :mod:`bayesprune.sparse.kernels.torch_bsr`.
    """

    name = "torch"

    def supports(self, weight: Packed) -> bool:
        values, shape, block = weight.values, weight.shape, weight.format.block
        if not weight.format.gridded or not values.numel():
            return False
        if values.is_cuda:
            return block is None and values.dtype in _ON_GPU
        if not values.is_cpu or values.dtype not in _ON_CPU:
            return False
        if block is None:
            return True
        h, w = block
        return h == w > 1 and not shape[0] % h and not shape[1] % w and torch.backends.mkl.is_available()

    def run(self, x: Tensor, weight: Operands) -> Tensor:
        y = weight.format.to_torch(weight) @ x.T
        return y.T.contiguous() if weight.bias is None else torch.add(y.T, weight.bias).contiguous()
