"""The roles of a weight's axes: outputs, inputs, kernel positions.

A pattern speaks of outputs and inputs, a tensor of axes. ``Layout`` is the one place that knows both, so that
``Block(16, 1)`` means sixteen outputs and one input on ``nn.Linear``, on a grouped or transposed convolution and
on Hugging Face's ``Conv1D`` alike.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

from torch import Tensor, nn

__all__ = ["HeadAxis", "Layout", "layout_of"]


@dataclass(frozen=True)
class HeadAxis:
    """Where attention heads lie in a weight: on which side, and how many stacked projections that side holds."""

    side: Literal["out", "in"] = "out"
    packed: int = 1


@dataclass(frozen=True)
class Layout:
    """The roles of a weight's axes.

    Args:
        shape: the tensor's own shape.
        transposed: the first axis counts inputs (transposed convolution, Hugging Face's ``Conv1D``).
        groups: convolution groups; the first axis is split into that many.
        heads: where attention heads lie; used by the pattern ``Heads`` alone.
        coupling: weights that carry the same non-empty string can share one decision (one attention's projections).

    Axes past the second are kernel positions. A vector has outputs only, a scalar one output.

    >>> Layout((8, 2, 3, 3), groups=2).roles       # nn.Conv2d(4, 8, 3, groups=2).weight
    (2, 4, 2, 9)
    >>> Layout((4, 6), transposed=True).roles      # Hugging Face's Conv1D: (inputs, outputs)
    (1, 6, 4, 1)
    """

    shape: tuple[int, ...]
    transposed: bool = False
    groups: int = 1
    heads: HeadAxis = HeadAxis()
    coupling: str = ""

    def __post_init__(self) -> None:
        if self.transposed and len(self.shape) < 2:
            raise ValueError(f"a transposed weight has at least two axes, got shape {self.shape}")
        if self.groups < 1 or (self.shape and self.shape[0] % self.groups):
            raise ValueError(f"groups={self.groups} does not divide the first axis of shape {self.shape}")

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's own shape, ``()`` for a matrix or a vector."""
        return self.shape[2:]

    @property
    def roles(self) -> tuple[int, int, int, int]:
        """``(groups, outputs per group, inputs per group, kernel positions)``."""
        first = self.shape[0] if self.shape else 1
        second = self.shape[1] if len(self.shape) > 1 else 1
        first //= self.groups
        out, into = (second, first) if self.transposed else (first, second)
        return self.groups, out, into, prod(self.kernel)

    def matrix(self, x: Tensor) -> Tensor:
        """View ``x`` of the weight's shape as ``(groups, outputs, inputs, kernel positions)``."""
        if tuple(x.shape) != self.shape:
            raise ValueError(f"expected a tensor of the weight's shape {self.shape}, got {tuple(x.shape)}")
        groups, out, into, positions = self.roles
        if self.transposed:
            return x.reshape(groups, into, out, positions).transpose(1, 2)
        return x.reshape(groups, out, into, positions)

    def unmatrix(self, m: Tensor) -> Tensor:
        """The inverse of :meth:`matrix`."""
        return (m.transpose(1, 2) if self.transposed else m).reshape(self.shape)


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


def layout_of(net: nn.Module, name: str) -> Layout:
    """The layout of parameter ``name`` in ``net``, read off the module that owns it.

    Args:
        net: any module.
        name: a parameter's dotted name, as in ``net.named_parameters()``.

    Raises:
        AttributeError: ``net`` has no such parameter.

    Hugging Face's ``Conv1D`` is known by its name and its attribute ``nf``, so that the library needs no transformers.

    >>> layout_of(nn.Sequential(nn.ConvTranspose1d(3, 6, 5)), "0.weight").roles
    (1, 6, 3, 5)
    """
    path, _, leaf = name.rpartition(".")
    owner = net.get_submodule(path)
    shape = tuple(net.get_parameter(name).shape)
    if isinstance(owner, nn.MultiheadAttention):
        packed = 3 if leaf.startswith("in_proj") else 1
        return Layout(shape, heads=HeadAxis("out", packed), coupling=path or ".")
    parent_path = path.rpartition(".")[0]
    if isinstance(net.get_submodule(parent_path), nn.MultiheadAttention) and leaf == "weight":  # its out_proj
        return Layout(shape, heads=HeadAxis("in"), coupling=parent_path or ".")
    if leaf == "weight" and isinstance(owner, _CONVOLUTIONS):
        return Layout(shape, transposed=isinstance(owner, _TRANSPOSED), groups=owner.groups)
    if leaf == "weight" and type(owner).__name__ == "Conv1D" and hasattr(owner, "nf"):
        return Layout(shape, transposed=True)
    return Layout(shape)
