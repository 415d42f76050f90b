"""The reference kernel: unpack, then the dense product. Any dtype, any device, never fast."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.sparse.activations import ACTIVATIONS
from bayesprune.sparse.buffers.geometry import Geometry, conv_weight, plainly_strided
from bayesprune.sparse.formats import Operands, Packed
from bayesprune.sparse.kernels.base import Kernel, weight_in

__all__ = ["Reference"]


class Reference(Kernel):
    """Builds the dense weight at every call and uses ``F.linear``."""

    name = "reference"
    fallback = True

    def supports(self, weight: Packed) -> bool:
        return True

    def takes_conv(self, weight: Packed, inputs: torch.dtype, geometry: Geometry) -> bool:
        return True

    def run_conv(self, x: Tensor, weight: Operands, geometry: Geometry) -> Tensor:
        g, dense = geometry, conv_weight(weight_in(x.dtype, weight), geometry)
        if weight.scale is not None:
            dense = dense * weight.scale.to(x.dtype)[:, None, None, None]
        x, dense = plainly_strided(x), plainly_strided(dense)
        y = F.conv2d(x, dense, weight.bias, g.stride, g.padding, g.dilation, g.groups)
        return ACTIVATIONS[weight.activation](y)

    def run(self, x: Tensor, weight: Operands) -> Tensor:
        return F.linear(x, weight_in(x.dtype, weight), weight.bias)
