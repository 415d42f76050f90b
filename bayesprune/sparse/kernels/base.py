"""Base class of kernels: one way to multiply by a packed weight."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.buffers.operands import Operands
from bayesprune.sparse.buffers.unpack import dense_of, values_at

__all__ = ["ACTIVATIONS", "Kernel"]

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "": lambda y: y,
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
    }
)


class Kernel(ABC):
    """One way to compute ``x @ weight.T + bias`` from the plain buffers of a packed weight. A pure function.

    ``values`` is ``(nnz,)`` for CSR, ``(nnz, w, h)`` for BSR and ``(out, in / 2)`` for semi-structured; ``crow`` and
    ``col`` are int32. A new kernel is a file with one subclass, and one line in ``bayesprune.sparse.kernels``.
    """

    name: ClassVar[str]
    fuses: ClassVar[bool] = False  # takes scale and activation too: see ``run_fused``
    fallback: ClassVar[bool] = False  # always right and never fast: timed only where nothing else fits

    @abstractmethod
    def supports(self, values: Tensor, shape: tuple[int, int]) -> bool:
        """Can it run these values (dtype, device, block) as a weight of ``shape`` ``(out, in)``? Asked every call."""

    def takes(self, values: Tensor, shape: tuple[int, int], inputs: torch.dtype) -> bool:
        """Can it run these values on an x of the dtype ``inputs``?"""
        return self.supports(values, shape) and (self.fuses or values.dtype == inputs)

    def why_not(self, values: Tensor) -> str:
        """What it wants, in words, of values that it does not take; empty where the warning says enough."""
        return ""

    def takes_conv(self, values: Tensor, inputs: torch.dtype, geometry: Geometry, shape: tuple[int, int]) -> bool:
        """Can it run these values as the matrix, of ``shape``, of a convolution? See :meth:`run_conv`."""
        return False

    def run_conv(self, x: Tensor, weight: Operands, geometry: Geometry) -> Tensor:
        """The convolution of x ``(images, channels, rows, columns)`` by the weight.

        Its shape is ``(outputs, kernel rows · kernel columns · channels a group)``, the channels fastest.
        """
        raise ValueError(f"the kernel {self.name!r} has no convolution")

    @abstractmethod
    def run(
        self, x: Tensor, values: Tensor, crow: Tensor, col: Tensor, bias: Tensor | None, shape: tuple[int, int]
    ) -> Tensor:
        """``x`` is ``(tokens, in)`` with at least one token, in ``values``'s dtype; returns ``(tokens, out)``."""

    def run_fused(self, x: Tensor, weight: Operands) -> Tensor:
        """``activation((x @ values.T) * scale + bias)``, step by step where the kernel does not fuse it."""
        values, crow, col, bias, scale, shape, activation = weight
        y = self.run(x, values.to(x.dtype), crow, col, bias if scale is None else None, shape)
        if scale is not None:
            y = y * scale.to(x.dtype)
            y = y if bias is None else y + bias
        return ACTIVATIONS[activation](y)

    def grad_x(self, grad: Tensor, weight: Operands) -> Tensor:
        """The gradient of x, ``(tokens, in)``, from that of ``x @ weight.T``, ``(tokens, out)``; here the dense way."""
        scaled = grad if weight.scale is None else grad * weight.scale.to(grad.dtype)
        return scaled @ dense_of(weight.values.to(grad.dtype), weight.crow, weight.col, weight.shape)

    def grad_values(self, grad: Tensor, x: Tensor, weight: Operands) -> Tensor:
        """The gradient of the values: ``gradᵀ @ x`` at the stored places, 0 in padding; here the dense way."""
        return values_at(grad.T @ x, weight.values, weight.crow, weight.col)
