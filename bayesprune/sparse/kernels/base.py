"""What a kernel is: one way to multiply by a packed weight."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

__all__ = ["Kernel"]


class Kernel(ABC):
    """One way to compute ``x @ weight.T + bias`` from the plain buffers of a packed weight. Stateless.

    ``values`` is ``(nnz,)`` for CSR and ``(nnz, h, w)`` for BSR; ``crow`` and ``col`` are int32. A new kernel is a
    file with one subclass, and one line in ``bayesprune.sparse.kernels``.
    """

    name: ClassVar[str]
    fallback: ClassVar[bool] = False  # always right and never fast: timed only where nothing else fits

    @abstractmethod
    def supports(self, values: Tensor, shape: tuple[int, int]) -> bool:
        """Can it run these values (dtype, device, block) as a weight of ``shape`` ``(out, in)``? Asked every call."""

    @abstractmethod
    def run(
        self, x: Tensor, values: Tensor, crow: Tensor, col: Tensor, bias: Tensor | None, shape: tuple[int, int]
    ) -> Tensor:
        """``x`` is ``(tokens, in)`` with at least one token, in ``values``'s dtype; returns ``(tokens, out)``."""
