"""Weighted numbers in ascending order, and sums over any run of them by two look-ups."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

__all__ = ["Levels", "Numbers", "Points", "in_order", "nearest"]

Numbers = Float64[np.ndarray, " points"]
Levels = Float64[np.ndarray, " levels"]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Points:
    """Distinct numbers, ascending, with weights above 0; :func:`in_order` makes it.

    A run of them is ``first … end − 1``. What is drawn together costs Σ weight · (point − level)².
    """

    at: Numbers
    weight: Numbers
    origin: float
    sums: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def of(cls, at: Numbers, weight: Numbers) -> "Points":
        """``at`` is distinct and ascending."""
        origin = float(np.average(at, weights=weight))  # near 0, the sums below lose no digits
        moved = at - origin
        first = weight * moved
        sums = (weight, first, first * moved)
        found = [np.empty(len(at) + 1) for _ in sums]
        for x, total in zip(sums, found, strict=True):
            total[0] = 0.0
            np.cumsum(x, out=total[1:])
        return cls(at, weight, origin, (found[0], found[1], found[2]))

    def __len__(self) -> int:
        return len(self.at)

    def cost(self, first: Places, end: Places) -> NDArray[np.float64]:
        """What it costs to draw a run, of one point at least, together to its mean."""
        weight, total, square = (x[end] - x[first] for x in self.sums)
        return np.maximum(square - total**2 / weight, 0.0)

    def means(self, bounds: Places) -> Levels:
        """The weighted mean of the run between each two bounds."""
        weight, total, _ = self.sums
        return np.diff(total[bounds]) / np.diff(weight[bounds]) + self.origin

    def bounds(self, levels: Levels) -> Places:
        """The bounds of the runs that lie nearest to each of the ascending levels; a run may be empty."""
        ends = np.searchsorted(self.at, (levels[1:] + levels[:-1]) / 2, side="right")
        return np.concatenate([[0], ends, [len(self.at)]])

    def error(self, levels: Levels) -> float:
        """Σ weight · (point − nearest level)².

        >>> round(in_order(np.array([0.0, 1.0, 10.0]), None).error(np.array([0.0, 9.0])), 6)
        2.0
        """
        bounds, moved = self.bounds(levels), levels - self.origin
        weight, total, square = (np.diff(x[bounds]) for x in self.sums)
        return float(np.maximum(square - 2 * moved * total + moved**2 * weight, 0.0).sum())

    def fewer(self, most: int) -> "Points":
        """At most ``most`` points: neighbours by rank and by distance drawn together."""
        n = len(self.at)
        if n <= most:
            return self
        by_rank = np.arange(0, n, -(-2 * n // most))
        by_distance = np.searchsorted(self.at, np.linspace(self.at[0], self.at[-1], most // 2))
        bounds = np.union1d(by_rank, by_distance[by_distance < n])
        bounds = np.append(bounds, n)
        return Points.of(self.means(bounds), np.diff(self.sums[0][bounds]))


def in_order(numbers: Numbers, weights: Numbers | None) -> Points:
    """``numbers`` in any order, with weights above 0, or all of weight 1.

    >>> in_order(np.array([3.0, 1.0, 3.0]), None).weight
    array([1., 2.])
    """
    if weights is None:
        at = np.sort(numbers)
    else:
        order = np.argsort(numbers)
        at, weights = numbers[order], weights[order]
    new = np.empty(len(at), dtype=bool)
    new[:1] = True
    np.not_equal(at[1:], at[:-1], out=new[1:])
    first = np.flatnonzero(new)
    if len(first) == len(at):
        return Points.of(at, np.ones(len(at)) if weights is None else weights)
    weight = (
        np.diff(np.append(first, len(at))).astype(np.float64) if weights is None else np.add.reduceat(weights, first)
    )
    return Points.of(at[first], weight)


def nearest(points: Numbers, levels: Levels) -> Places:
    """The index of the nearest of the ascending levels for each point; the lower one where two are as near.

    >>> nearest(np.array([0.1, 0.5, 0.9]), np.array([0.0, 1.0])).tolist()
    [0, 0, 1]
    """
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, points)
