"""The reference kernel: unpack, then the dense product. Any dtype, any device, never fast."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.buffers.operands import Operands
from bayesprune.sparse.buffers.unpack import conv_weight, dense_of
from bayesprune.sparse.kernels.base import ACTIVATIONS, Kernel

__all__ = ["Reference"]


class Reference(Kernel):
    """Builds the dense weight at every call and uses ``F.linear``."""

    name = "reference"
    fallback = True

    def supports(self, values: Tensor, shape: tuple[int, int]) -> bool:
        return True

    def takes_conv(self, values: Tensor, inputs: torch.dtype, geometry: Geometry, shape: tuple[int, int]) -> bool:
        return True

    def run_conv(self, x: Tensor, weight: Operands, geometry: Geometry) -> Tensor:
        values, crow, col, bias, scale, shape, activation = weight
        g, dense = geometry, conv_weight(dense_of(values.to(x.dtype), crow, col, shape), geometry)
        if scale is not None:
            dense = dense * scale.to(x.dtype)[:, None, None, None]
        return ACTIVATIONS[activation](F.conv2d(x, dense, bias, g.stride, g.padding, g.dilation, g.groups))

    def run(
        self, x: Tensor, values: Tensor, crow: Tensor, col: Tensor, bias: Tensor | None, shape: tuple[int, int]
    ) -> Tensor:
        return F.linear(x, dense_of(values, crow, col, shape), bias)
