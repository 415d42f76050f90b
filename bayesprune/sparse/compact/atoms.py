"""Atoms: one label per channel of every intermediate result, with its value where that is constant."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["Atoms", "combine", "core", "distinct", "relabel", "spread", "tight", "varies", "varying"]


class Atoms:
    """Numbered from 0; each knows the constant that all its entries equal, or NaN where there is none.

    Behind zeros of a padding a constant is one no longer, but a factor of a *shape* that all channels share there.
    Shapes are numbers, 0 for what is the same everywhere.
    """

    def __init__(self) -> None:
        self.count = 0
        self._values = torch.full((1024,), torch.nan, dtype=torch.float64)
        self._shapes = torch.zeros(1024, dtype=torch.int64)
        self._known: dict[tuple[object, int], int] = {}

    def new(self, count: int, values: Tensor | None = None, shapes: Tensor | None = None) -> Tensor:
        """The numbers of ``count`` fresh atoms, of these constants, NaN where unknown, or factors of ``shapes``."""
        first, self.count = self.count, self.count + count
        if self.count > len(self._values):
            room = max(len(self._values), count)
            self._values = torch.cat([self._values, torch.full((room,), torch.nan, dtype=torch.float64)])
            self._shapes = torch.cat([self._shapes, torch.zeros(room, dtype=torch.int64)])
        if values is not None:
            values = values.to(torch.float64)
            self._values[first : self.count] = torch.where(values.isfinite(), values, torch.nan)
        if shapes is not None:
            self._shapes[first : self.count] = shapes
        return torch.arange(first, self.count)

    def values(self, atoms: Tensor) -> Tensor:
        """The constants of ``atoms``, float64."""
        values = self._values[atoms]
        return torch.where((self._shapes[atoms] == 0) | (values == 0), values, torch.nan)

    def shaped(self, index: Tensor, atoms: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """As :meth:`uniform`, with factors of shapes: these, and the number of the shape for each place."""
        values, shapes = self._values[atoms], self._shapes[atoms]
        low = torch.full((count,), 1 << 62, dtype=torch.int64).scatter_reduce(0, index, shapes, "amin")
        high = torch.full((count,), -1, dtype=torch.int64).scatter_reduce(0, index, shapes, "amax")
        return torch.where(low == high, _uniform(index, values, count), torch.nan), torch.where(low == high, low, 0)

    def after(self, operator: object, shapes: Tensor) -> Tensor:
        """The numbers of what a linear operator, the same for all channels, makes of ``shapes``."""
        return shapes.clone().apply_(lambda shape: self._known.setdefault((operator, shape), len(self._known) + 1))

    def uniform(self, index: Tensor, atoms: Tensor, count: int) -> Tensor:
        """For each of ``count`` places the constant of all atoms there; NaN where they differ or are not constant.

        Args:
            index: the place of each of ``atoms``.
            atoms: their numbers.
            count: how many places there are.
        """
        return _uniform(index, self.values(atoms), count)


def _uniform(index: Tensor, values: Tensor, count: int) -> Tensor:
    low = torch.full((count,), torch.inf, dtype=torch.float64).scatter_reduce(0, index, values, "amin")
    high = torch.full((count,), -torch.inf, dtype=torch.float64).scatter_reduce(0, index, values, "amax")
    return torch.where(low == high, low, torch.nan)


def varies(labels: Tensor, axis: int) -> bool:
    """Whether the atoms differ along ``axis``; ``labels`` are :func:`tight`."""
    return labels.shape[axis] > 1 and labels.stride(axis) != 0


def varying(labels: Tensor) -> list[int]:
    """The axes along which the atoms differ; ``labels`` are :func:`tight`."""
    return [axis for axis in range(labels.dim()) if varies(labels, axis)]


def core(labels: Tensor, axes: Iterable[int]) -> Tensor:
    """``labels`` with one entry along each axis but ``axes``."""
    kept = set(axes)
    for axis in range(labels.dim()):
        if axis not in kept and labels.shape[axis] > 1:
            labels = labels.narrow(axis, 0, 1)
    return labels


def distinct(labels: Tensor) -> Tensor:
    """``labels`` with one entry along each axis along which the atoms do not differ."""
    return core(labels, varying(labels))


def tight(labels: Tensor) -> Tensor:
    """The same labels, with stride 0 along each axis along which they do not differ."""
    shape = labels.shape
    labels = distinct(labels)
    for axis in range(labels.dim()):
        if labels.shape[axis] > 1:
            first = labels.narrow(axis, 0, 1)
            if torch.equal(first.expand_as(labels), labels):
                labels = first
    return labels.contiguous().expand(shape)


def combine(labels: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Number the combinations of atoms that meet in the entries of tensors of one shape.

    Args:
        labels: tight, of one shape.
        count: how many atoms there are.

    Returns:
        The number of each entry's combination, in that shape, and the combinations, ``(len(labels), combinations)``.
    """
    shape = labels[0].shape
    axes = {axis for one in labels for axis in varying(one)}
    cores = [core(one, axes) for one in labels]
    cores = list(torch.broadcast_tensors(*cores))
    index = torch.zeros_like(cores[0])
    for one in cores:
        _, index = torch.unique(index * count + one, return_inverse=True)
    flat = index.flatten()
    number = int(flat.max()) + 1 if flat.numel() else 0
    combinations = torch.empty(len(labels), number, dtype=torch.int64)
    for row, one in zip(combinations, cores, strict=True):
        row[flat] = one.flatten()
    return index.expand(shape), combinations


def spread(atoms: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    """Labels of ``shape`` that have ``atoms`` along ``axis``."""
    sides = [1] * len(shape)
    sides[axis] = -1
    return atoms.view(sides).expand(tuple(shape))


def relabel(atoms: Tensor, index: Tensor) -> Tensor:
    """``atoms[index]``, tight where ``index`` is."""
    return atoms[distinct(index)].expand(index.shape)
