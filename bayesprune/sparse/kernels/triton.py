"""The GPU kernels as a :class:`Kernel`: our own, written in Triton."""

from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.formats import Operands, Packed
from bayesprune.sparse.gpu.devices import obstacle
from bayesprune.sparse.kernels.base import Kernel

__all__ = ["BLOCK_ROWS", "Triton"]

BLOCK_ROWS = range(16, 129)  # outputs a block: fewer leave the tensor cores idle, more do not fit a tile of sums
_INPUTS = (torch.float16, torch.bfloat16, torch.float32)


@cache
def _code() -> ModuleType:
    """The module that launches: imported when the first kernel runs, as it needs Triton."""
    from bayesprune.sparse.gpu import launch

    return launch


@cache
def _gradients() -> ModuleType:
    from bayesprune.sparse.gpu import gradients

    return gradients


def _high(weight: Packed) -> bool:
    block = weight.format.block
    return weight.format.gridded and block is not None and block[0] in BLOCK_ROWS


class Triton(Kernel):
    """Blocks of 16 to 128 outputs by any number of inputs, ragged edges; bias and activation fused.

    float16, bfloat16, float32 and int8 weights on a CUDA GPU of compute capability 8.0 or newer; float32 in tf32 where
    torch allows that for its own products. Needs the extra ``bayesprune[gpu]``. Tiles are chosen by a short race when a
    kind of product is first met; see :mod:`bayesprune.sparse.gpu.tuning`.
    """

    name = "triton"
    fuses = True

    def supports(self, weight: Packed) -> bool:
        values = weight.values
        if not _high(weight):
            return False
        return (values.dtype in _INPUTS or values.dtype == torch.int8) and obstacle(values.device) is None

    def takes(self, weight: Packed, inputs: torch.dtype) -> bool:
        return inputs in _INPUTS and weight.values.dtype in (inputs, torch.int8) and self.supports(weight)

    def why_not(self, weight: Packed) -> str:
        if not _high(weight):
            return f"it multiplies by blocks of {BLOCK_ROWS[0]} to {BLOCK_ROWS[-1]} outputs"
        return obstacle(weight.values.device) or ""

    def takes_conv(self, weight: Packed, inputs: torch.dtype, geometry: Geometry) -> bool:
        return geometry.pointwise and self.takes(weight, inputs)

    def run_conv(self, x: Tensor, weight: Operands, geometry: Geometry) -> Tensor:
        images, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        y = self.run_fused(pixels, weight)
        return y.view(images, height, width, weight.shape[0]).permute(0, 3, 1, 2)

    def run_fused(self, x: Tensor, weight: Operands) -> Tensor:
        return _code().linear(x, weight)

    def run(self, x: Tensor, weight: Operands) -> Tensor:
        return self.run_fused(x, weight._replace(scale=None, activation=""))

    def grad_x(self, grad: Tensor, weight: Operands) -> Tensor:
        there = grad.numel() and weight.values.numel() and self.takes(weight, grad.dtype)
        if there and _gradients().pays(weight, "x"):
            return _gradients().grad_x(grad, weight)
        return super().grad_x(grad, weight)

    def grad_values(self, grad: Tensor, x: Tensor, weight: Operands) -> Tensor:
        there = grad.numel() and weight.values.numel() and self.takes(weight, grad.dtype)
        if there and weight.values.dtype == x.dtype and _gradients().pays(weight, "values"):
            return _gradients().grad_values(grad, x, weight)
        return super().grad_values(grad, x, weight)
