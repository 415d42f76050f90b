"""BSR products by gathering each block row's inputs, then one dense product; plain torch."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.sparse.formats import Operands, Packed
from bayesprune.sparse.kernels.base import Kernel

__all__ = ["Gather"]


class Gather(Kernel):
    """Any block, ragged edges, any dtype and device that has a matrix product. Wants tall blocks and many tokens."""

    name = "gather"

    def supports(self, weight: Packed) -> bool:
        return weight.format.gridded and weight.format.block is not None and weight.values.is_floating_point()

    def run(self, x: Tensor, weight: Operands) -> Tensor:
        values, crow, col, bias, _, (out, into), *_ = weight
        _, w, h = values.shape
        tokens = x.shape[0]
        inputs = F.pad(x.T, (0, 0, 0, -into % w)).contiguous().view(-1, w * tokens)
        y = x.new_zeros(len(crow) - 1, h, tokens)
        bounds = crow.tolist()
        for row, (start, end) in enumerate(pairwise(bounds)):
            if start < end:
                read = inputs.index_select(0, col[start:end]).view(-1, tokens)
                torch.mm(values[start:end].view(-1, h).T, read, out=y[row])
        y = y.view(-1, tokens)[:out].T
        return y.contiguous() if bias is None else torch.add(y, bias).contiguous()
