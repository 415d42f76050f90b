"""One parameter of a net as a method sees it: tensor, name, pattern and axis layout."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprune.layout import Layout
from bayesprune.patterns import Pattern

__all__ = ["Weight"]


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter's name, its value, the roles of its axes, and the pattern it is pruned by.

    Args:
        name: the parameter's dotted name in the net; its sample site's name too.
        tensor: the (trained) value, floating point, of any shape. Detached; never written to.
        pattern: the groups.
        layout: the roles of the axes; by default the first counts outputs and the second inputs.
        fixed: bool, such that it broadcasts to the tensor: entries that keep their value, for no gradient reaches them,
            such as the padding row of an embedding.

    Raises:
        PatternError: the pattern does not fit the tensor.
        ValueError: the tensor is not floating point, or holds NaN or infinity.

    >>> from bayesprune.patterns import Block
    >>> Weight("fc.weight", torch.zeros(32, 8), Block(16, 1)).grid
    (2, 8)
    """

    name: str
    tensor: Tensor
    pattern: Pattern
    layout: Layout = None  # type: ignore[assignment]  # the default is made of the shape
    fixed: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.tensor.is_floating_point():
            raise ValueError(f"{self.name!r} is {self.tensor.dtype}: a posterior needs floating-point weights")
        if not bool(torch.isfinite(self.tensor).all()):
            raise ValueError(f"{self.name!r} holds NaN or infinity: a posterior starts at the weights, mend them first")
        if self.layout is None:
            object.__setattr__(self, "layout", Layout(tuple(self.tensor.shape)))
        object.__setattr__(self, "tensor", self.tensor.detach())
        self.pattern.groups(self.layout)

    @property
    def grid(self) -> tuple[int, ...]:
        """The shape of the grid of groups."""
        return self.pattern.groups(self.layout)
