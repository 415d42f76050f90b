"""CSR products as ``embedding_bag``: each output is a weighted sum of rows of ``x.T``."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.sparse.formats import Operands, Packed
from bayesprune.sparse.kernels.base import Kernel

__all__ = ["EmbeddingBag"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class EmbeddingBag(Kernel):
    """CSR through ``F.embedding_bag``, whose vectors run along the batch: good from about 16 tokens on, bf16 too."""

    name = "embedding_bag"

    def supports(self, weight: Packed) -> bool:
        entries = weight.format.gridded and weight.format.block is None
        return entries and weight.values.device.type == "cpu" and weight.values.dtype in _DTYPES

    def run(self, x: Tensor, weight: Operands) -> Tensor:
        values, crow, col, bias, *_ = weight
        y = F.embedding_bag(
            col, x.T.contiguous(), crow, mode="sum", per_sample_weights=values, include_last_offset=True
        )
        return y.T.contiguous() if bias is None else torch.add(y.T, bias).contiguous()
