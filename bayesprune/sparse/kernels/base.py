"""Base class of kernels: one way to multiply by a packed weight."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from bayesprune.sparse.activations import ACTIVATIONS
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.formats import Operands, Packed

__all__ = ["Kernel", "weight_in"]


def weight_in(dtype: torch.dtype, weight: Operands) -> Tensor:
    """The dense weight ``(out, in)`` in ``dtype``, before any scale; differentiable in its values."""
    return weight.format.unpack(weight.values.to(dtype), weight.crow, weight.col, weight.shape)


class Kernel(ABC):
    """One way to compute ``x @ weight.T + bias`` from the plain buffers of a packed weight. A pure function.

    What it can run it tells by the format's own account (``block``, ``gridded``, ``of_inputs``) and the values' dtype
    and device. A new kernel is a file with one subclass, and one line in ``bayesprune.sparse.kernels``.
    """

    name: ClassVar[str]
    fuses: ClassVar[bool] = False  # takes scale and activation too: see ``run_fused``
    fallback: ClassVar[bool] = False  # always right and never fast: timed only where nothing else fits

    @abstractmethod
    def supports(self, weight: Packed) -> bool:
        """Can it run this weight (format, dtype, device, shape)? Asked at every call."""

    def takes(self, weight: Packed, inputs: torch.dtype) -> bool:
        """Can it run this weight on an x of the dtype ``inputs``?"""
        return self.supports(weight) and (self.fuses or weight.values.dtype == inputs)

    def why_not(self, weight: Packed) -> str:
        """What it wants, in words, of a weight that it does not take; empty where the warning says enough."""
        return ""

    def takes_conv(self, weight: Packed, inputs: torch.dtype, geometry: Geometry) -> bool:
        """Can it run this weight as the matrix of a convolution? See :meth:`run_conv`."""
        return False

    def run_conv(self, x: Tensor, weight: Operands, geometry: Geometry) -> Tensor:
        """The convolution of x ``(images, channels, rows, columns)`` by the weight.

        Its shape is ``(outputs, kernel rows · kernel columns · channels a group)``, the channels fastest.
        """
        raise ValueError(f"the kernel {self.name!r} has no convolution")

    @abstractmethod
    def run(self, x: Tensor, weight: Operands) -> Tensor:
        """``x @ values.T + bias``: x is ``(tokens, in)``, one token at least, in the values' dtype; ``(tokens, out)``.

        A scale or an activation is not for it to apply.
        """

    def run_fused(self, x: Tensor, weight: Operands) -> Tensor:
        """``activation((x @ values.T) * scale + bias)``, step by step where the kernel does not fuse it."""
        bias, scale = weight.bias, weight.scale
        if scale is None:
            return ACTIVATIONS[weight.activation](self.run(x, weight))
        y = self.run(x, weight._replace(values=weight.values.to(x.dtype), bias=None)) * scale.to(x.dtype)
        return ACTIVATIONS[weight.activation](y if bias is None else y + bias)

    def grad_x(self, grad: Tensor, weight: Operands) -> Tensor:
        """The gradient of x, ``(tokens, in)``, from that of ``x @ weight.T``, ``(tokens, out)``; here the dense way."""
        scaled = grad if weight.scale is None else grad * weight.scale.to(grad.dtype)
        return scaled @ weight_in(grad.dtype, weight)

    def grad_values(self, grad: Tensor, x: Tensor, weight: Operands) -> Tensor:
        """The gradient of the values: ``gradᵀ @ x`` at the stored places, 0 in padding; here the dense way."""
        return weight.format.gather(grad.T @ x, weight.crow, weight.col)
