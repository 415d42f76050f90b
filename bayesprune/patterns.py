"""Sparsity patterns: which entries of a weight form a group that is pruned together.

A pattern cuts a weight into groups. It can sum over each group (``pool``), hand a value per group back to the
entries (``expand``), and say which groups its own rule lets stay (``allowed``: all of them, but for N:M).
"""

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Shaped
from torch import Tensor

from bayesprune.layout import HeadAxis, Layout

__all__ = ["NM", "Block", "Channel", "Heads", "Pattern", "PatternError", "Unstructured"]


class PatternError(ValueError):
    """A pattern that does not fit a weight."""


def _at_least_one(pattern: "Pattern", **sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise PatternError(f"{type(pattern).__name__} needs {name} to be an integer ≥ 1, got {size!r}")


class Pattern(ABC):
    """A partition of a weight's entries into groups that are pruned together; a frozen value, compared by its fields.

    Attributes:
        couples: whether weights whose layouts name one coupling (the projections of one attention) are decided on
            together.
    """

    couples: ClassVar[bool] = False

    @abstractmethod
    def groups(self, layout: Layout) -> tuple[int, ...]:
        """The shape of the grid of groups. Raises :class:`PatternError` where the pattern does not fit."""

    @abstractmethod
    def pool(self, x: Shaped[Tensor, "..."], layout: Layout) -> Shaped[Tensor, "..."]:
        """Sum ``x``, of the weight's shape, over each group; the result has the grid's shape."""

    @abstractmethod
    def expand(self, g: Shaped[Tensor, "..."], layout: Layout) -> Shaped[Tensor, "..."]:
        """Give each entry of the weight its group's value; the result has the weight's shape."""

    def allowed(self, score: Shaped[Tensor, "..."], layout: Layout) -> Bool[Tensor, "..."]:
        """The groups that the pattern's own rule lets stay, whatever the budget: all, unless it is N:M."""
        return torch.ones_like(score, dtype=torch.bool)

    def spread(self, g: Shaped[Tensor, "..."], layout: Layout) -> Shaped[Tensor, "..."]:
        """The old name of :meth:`expand`."""
        warnings.warn("Pattern.spread is called expand now", DeprecationWarning, stacklevel=2)
        return self.expand(g, layout)

    def keep(self, score: Shaped[Tensor, "..."], layout: Layout) -> Bool[Tensor, "..."]:
        """The old name of :meth:`allowed`."""
        warnings.warn("Pattern.keep is called allowed now", DeprecationWarning, stacklevel=2)
        return self.allowed(score, layout)

    def sizes(self, layout: Layout, device: torch.device | None = None) -> Shaped[Tensor, "..."]:
        """How many entries each group holds: int64, of the grid's shape."""
        return self.pool(torch.ones(layout.shape, dtype=torch.int64, device=device), layout)


@dataclass(frozen=True)
class Unstructured(Pattern):
    """Unstructured sparsity: each entry is a group of its own.

    >>> Unstructured().groups(Layout((3, 4)))
    (3, 4)
    """

    def groups(self, layout: Layout) -> tuple[int, ...]:
        return layout.shape

    def pool(self, x: Shaped[Tensor, "..."], layout: Layout) -> Shaped[Tensor, "..."]:
        return x

    def expand(self, g: Shaped[Tensor, "..."], layout: Layout) -> Shaped[Tensor, "..."]:
        return g


@dataclass(frozen=True)
class Block(Pattern):
    """Blocks of ``h`` outputs × ``w`` inputs; on a convolution at one kernel position and within its group.

    Edges may be ragged: 10 outputs under ``Block(4, 1)`` make groups of 4, 4 and 2. The grid is
    ``(groups · ⌈outputs / h⌉, ⌈inputs / w⌉, *kernel)``, without the second axis for a vector.

    Raises:
        PatternError: a side is not a positive integer, or exceeds the weight.

    >>> Block(4, 2).groups(Layout((10, 6, 3, 3)))
    (3, 3, 3, 3)
    >>> Block(4, 2).pool(torch.ones(10, 6), Layout((10, 6)))
    tensor([[8., 8., 8.],
            [8., 8., 8.],
            [4., 4., 4.]])
    """

    h: int
    w: int

    def __post_init__(self) -> None:
        _at_least_one(self, h=self.h, w=self.w)

    def _grid(self, layout: Layout) -> tuple[int, int, int, int]:
        groups, out, into, positions = layout.roles
        if self.h > out or self.w > into:
            per = " in each convolution group" if groups > 1 else ""
            raise PatternError(
                f"Block({self.h}, {self.w}) is larger than a weight of shape {layout.shape}, which has {out} outputs "
                f"and {into} inputs{per}; take a block of at most ({out}, {into})"
            )
        return groups, -(-out // self.h), -(-into // self.w), positions

    def groups(self, layout: Layout) -> tuple[int, ...]:
        groups, rows, cols, _ = self._grid(layout)
        return (groups * rows, cols, *layout.kernel)[: max(len(layout.shape), 1)]

    def pool(self, x: Shaped[Tensor, "..."], layout: Layout) -> Shaped[Tensor, "..."]:
        groups, rows, cols, positions = self._grid(layout)
        m = layout.matrix(x)
        m = F.pad(m, (0, 0, 0, cols * self.w - m.shape[2], 0, rows * self.h - m.shape[1]))
        m = m.reshape(groups, rows, self.h, cols, self.w, positions).sum((2, 4))
        return m.reshape(self.groups(layout))

    def expand(self, g: Shaped[Tensor, "..."], layout: Layout) -> Shaped[Tensor, "..."]:
        groups, rows, cols, positions = self._grid(layout)
        _, out, into, _ = layout.roles
        m = g.reshape(groups, rows, 1, cols, 1, positions)
        m = m.expand(groups, rows, self.h, cols, self.w, positions)
        m = m.reshape(groups, rows * self.h, cols * self.w, positions)
        return layout.unmatrix(m[:, :out, :into])


@dataclass(frozen=True)
class Channel(Pattern):
    """Whole channels: one group per index of one axis of the tensor, as the tensor is stored.

    Raises:
        PatternError: the weight has no such axis.

    >>> Channel(1).pool(torch.ones(3, 4), Layout((3, 4)))
    tensor([3., 3., 3., 3.])
    """

    axis: int

    def __post_init__(self) -> None:
        if not isinstance(self.axis, int) or isinstance(self.axis, bool):
            raise PatternError(f"Channel needs an integer axis, got {self.axis!r}")

    def _axis(self, layout: Layout) -> int:
        rank = len(layout.shape)
        if not -rank <= self.axis < rank:
            raise PatternError(f"Channel({self.axis}) names an axis that a weight of shape {layout.shape} lacks")
        return self.axis % rank

    def groups(self, layout: Layout) -> tuple[int, ...]:
        return (layout.shape[self._axis(layout)],)

    def pool(self, x: Shaped[Tensor, "..."], layout: Layout) -> Shaped[Tensor, "..."]:
        rest = [a for a in range(x.dim()) if a != self._axis(layout)]
        return x.sum(rest) if rest else x

    def expand(self, g: Shaped[Tensor, "..."], layout: Layout) -> Shaped[Tensor, "..."]:
        axis = self._axis(layout)
        return g.reshape([-1 if a == axis else 1 for a in range(len(layout.shape))]).expand(layout.shape)


@dataclass(frozen=True)
class Heads(Pattern):
    """Attention heads: a head's query, key and value rows, and its columns of the output projection.

    On ``nn.MultiheadAttention`` the layout says where heads lie, and the projections of one attention share one
    decision per head. Elsewhere say it: ``Heads(8, side="in")`` for an output projection, ``Heads(8, packed=3)`` for
    a projection that stacks query, key and value.

    Raises:
        PatternError: the side cannot be cut into ``n`` equal heads.

    >>> attention = torch.nn.MultiheadAttention(8, 2)
    >>> from bayesprune.layout import layout_of
    >>> Heads(2).pool(torch.ones(24, 8), layout_of(attention, "in_proj_weight"))
    tensor([96., 96.])
    """

    couples: ClassVar[bool] = True
    n: int
    side: Literal["out", "in"] | None = None
    packed: int | None = None

    def __post_init__(self) -> None:
        _at_least_one(self, n=self.n, packed=1 if self.packed is None else self.packed)

    def _cut(self, layout: Layout) -> tuple[HeadAxis, list[int]]:
        where = HeadAxis(self.side or layout.heads.side, self.packed or layout.heads.packed)
        groups, out, into, positions = layout.roles
        length = out if where.side == "out" else into
        if groups != 1 or length % (where.packed * self.n):
            stack = f"{where.packed} stacked projections of " if where.packed > 1 else ""
            raise PatternError(
                f"Heads({self.n}) does not fit a weight of shape {layout.shape}: its {length} "
                f"{where.side}puts are not {stack}{self.n} equal heads"
            )
        parts = [where.packed, self.n, length // (where.packed * self.n)]
        return where, [*parts, into, positions] if where.side == "out" else [out, *parts, positions]

    def groups(self, layout: Layout) -> tuple[int, ...]:
        self._cut(layout)
        return (self.n,)

    def pool(self, x: Shaped[Tensor, "..."], layout: Layout) -> Shaped[Tensor, "..."]:
        where, parts = self._cut(layout)
        m = layout.matrix(x).reshape(parts)
        return m.sum((0, 2, 3, 4) if where.side == "out" else (0, 1, 3, 4))

    def expand(self, g: Shaped[Tensor, "..."], layout: Layout) -> Shaped[Tensor, "..."]:
        where, parts = self._cut(layout)
        m = g.reshape([1, self.n, 1, 1, 1] if where.side == "out" else [1, 1, self.n, 1, 1])
        return layout.unmatrix(m.expand(parts).reshape(layout.roles))


@dataclass(frozen=True)
class NM(Pattern):
    """N:M sparsity: at most ``n`` of every ``m`` consecutive inputs stay; 2:4 is what NVIDIA's sparse cores run.

    Mishra et al. 2021, *Accelerating Sparse Deep Neural Networks*, arXiv:2104.08378.

    Each entry is a group; ``allowed`` lets the ``n`` best of every ``m`` stay; a ragged last run keeps at most ``n``.

    Raises:
        PatternError: not ``1 ≤ n ≤ m``, or the weight has fewer than ``m`` inputs.

    >>> NM(1, 2).allowed(torch.tensor([[3.0, 1.0, 2.0, 4.0]]), Layout((1, 4)))
    tensor([[ True, False, False,  True]])
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        _at_least_one(self, n=self.n, m=self.m)
        if self.n > self.m:
            raise PatternError(f"NM needs n ≤ m, got n={self.n}, m={self.m}")

    def groups(self, layout: Layout) -> tuple[int, ...]:
        into = layout.roles[2]
        if into < self.m:
            raise PatternError(
                f"NM({self.n}, {self.m}) needs {self.m} inputs, a weight of shape {layout.shape} has {into}"
            )
        return layout.shape

    def pool(self, x: Shaped[Tensor, "..."], layout: Layout) -> Shaped[Tensor, "..."]:
        return x

    def expand(self, g: Shaped[Tensor, "..."], layout: Layout) -> Shaped[Tensor, "..."]:
        return g

    def allowed(self, score: Shaped[Tensor, "..."], layout: Layout) -> Bool[Tensor, "..."]:
        groups, out, into, positions = layout.roles
        runs = -(-into // self.m)
        m = layout.matrix(score.to(torch.float64))
        m = F.pad(m, (0, 0, 0, runs * self.m - into), value=-torch.inf).reshape(groups, out, runs, self.m, positions)
        best = torch.zeros_like(m, dtype=torch.bool)
        best.scatter_(3, m.topk(self.n, dim=3).indices, True)
        kept = best.reshape(groups, out, runs * self.m, positions)[:, :, :into]
        return layout.unmatrix(kept)
