"""Optimal weighted k-means in one dimension, by dynamic programming: the best few levels for many numbers.

Written here because no library solves the weighted problem in one dimension exactly: those that know weights start at
random, and stop where they are stuck.
"""

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

__all__ = ["best_levels", "nearest"]

_EXACT = 4096  # points that the dynamic programme works on; more are first drawn together into about as many
_ROUNDS = 20  # of Lloyd's algorithm, where points were drawn together

Points = Float64[np.ndarray, " points"]
Levels = Float64[np.ndarray, " levels"]


class _Costs:
    """The cost of drawing neighbouring points together: Σ weight · (point − weighted mean)²."""

    def __init__(self, points: Points, weights: Points) -> None:
        self.origin = float(np.average(points, weights=weights))  # near 0, the sums below lose no digits
        moved = points - self.origin
        self.weight, self.sum, self.square = (
            np.concatenate([[0.0], np.cumsum(weights * moved**power)]) for power in range(3)
        )

    def of(self, first: NDArray, end: NDArray) -> NDArray:
        """The cost of the points ``first`` … ``end − 1``, of which there is one at least."""
        weight, total, square = (x[end] - x[first] for x in (self.weight, self.sum, self.square))
        return np.maximum(square - total**2 / weight, 0.0)

    def means(self, bounds: NDArray) -> Levels:
        """The weighted mean of the points between each two bounds."""
        return np.diff(self.sum[bounds]) / np.diff(self.weight[bounds]) + self.origin


def _one_more(costs: _Costs, before: NDArray) -> tuple[NDArray, NDArray]:
    """The least cost of the first 1 … n points in one level more than ``before``, and where its last level begins.

    The beginning never falls as points are added, so each is looked for between those of its neighbours (divide and
    conquer, all points of one depth together).
    """
    n = len(before) - 1
    least, begin = np.full(n + 1, np.inf), np.zeros(n + 1, dtype=np.int64)
    least[0] = 0.0
    step = 1 << (n.bit_length() - 1)
    while step:
        ends = np.arange(step, n + 1, 2 * step)
        low = begin[ends - step]
        beyond = np.minimum(ends + step, n)
        high = np.minimum(np.where(ends + step <= n, begin[beyond], n), ends - 1)
        lengths = high - low + 1
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        tried = np.arange(lengths.sum()) + np.repeat(low - starts, lengths)
        found = before[tried] + costs.of(tried, np.repeat(ends, lengths))
        least[ends] = np.minimum.reduceat(found, starts)
        hits = np.flatnonzero(found == np.repeat(least[ends], lengths))
        begin[ends] = tried[hits[np.searchsorted(hits, starts)]]
        step //= 2
    return least, begin


def _programme(points: Points, weights: Points, most: int, enough: float) -> Levels:
    costs = _Costs(points, weights)
    n = len(points)
    least = costs.of(np.zeros(n + 1, dtype=np.int64)[1:], np.arange(1, n + 1))
    least = np.concatenate([[0.0], least])
    begins = [np.zeros(n + 1, dtype=np.int64)]
    while len(begins) < min(most, n) and least[n] > enough:
        least, begin = _one_more(costs, least)
        begins.append(begin)
    bounds = [n]
    for begin in reversed(begins):
        bounds.append(int(begin[bounds[-1]]))
    return costs.means(np.unique(bounds))


def _drawn_together(points: Points, weights: Points) -> tuple[Levels, Levels]:
    """About ``_EXACT`` weighted points: neighbours by rank and by distance drawn together."""
    by_rank = np.arange(0, len(points), -(-2 * len(points) // _EXACT))
    by_distance = np.searchsorted(points, np.linspace(points[0], points[-1], _EXACT // 2))
    first = np.union1d(by_rank, by_distance[by_distance < len(points)])
    weight = np.add.reduceat(weights, first)
    return np.add.reduceat(weights * points, first) / weight, weight


def nearest(points: Points, levels: Levels) -> NDArray[np.int64]:
    """The index of the nearest of the ascending levels for each point; the lower one where two are as near.

    >>> nearest(np.array([0.1, 0.5, 0.9]), np.array([0.0, 1.0])).tolist()
    [0, 0, 1]
    """
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, points)


def best_levels(points: Points, weights: Points, most: int, enough: float = 0.0) -> Levels:
    """The fewest ascending levels of which Σ weight · (point − nearest level)² is ``enough`` or less; at most ``most``.

    The least such sum for their number up to 4,096 distinct points (Wang & Song 2011, Ckmeans.1d.dp, with the search
    of Wu 1991): always the same, and no start to choose. More points are drawn together into as many, and Lloyd's
    algorithm ends on all of them.

    Args:
        points: the numbers, finite, at least one.
        weights: above 0.
        most: levels, at least 1.
        enough: of the sum.

    >>> best_levels(np.array([0.0, 1.0, 10.0, 11.0]), np.ones(4), most=2)
    array([ 0.5, 10.5])
    """
    distinct, where = np.unique(points, return_inverse=True)
    weight = np.bincount(where, weights)
    if len(distinct) <= _EXACT:
        return _programme(distinct, weight, most, enough)
    levels = _programme(*_drawn_together(distinct, weight), most, enough)
    sums = (np.concatenate([[0.0], np.cumsum(x)]) for x in (weight, weight * distinct))
    weight_to, sum_to = sums
    for _ in range(_ROUNDS):
        ends = np.searchsorted(distinct, (levels[1:] + levels[:-1]) / 2, side="right")
        bounds = np.unique(np.concatenate([[0], ends, [len(distinct)]]))
        moved = np.diff(sum_to[bounds]) / np.diff(weight_to[bounds])
        if len(moved) == len(levels) and np.allclose(moved, levels, rtol=1e-9, atol=0.0):
            break
        levels = moved
    return levels
