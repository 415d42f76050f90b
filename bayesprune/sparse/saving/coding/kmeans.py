"""Weighted k-means in one dimension: the best few levels for many numbers, always the same, with no start to choose.

Written here because no library solves the weighted problem in one dimension: those that know weights start at random,
and stop where they are stuck.
"""

import math

import numpy as np
from numpy.typing import NDArray

from bayesprune.sparse.saving.coding.bands import banded, lloyd
from bayesprune.sparse.saving.coding.points import Levels, Numbers, Points, in_order

__all__ = ["best_levels", "levels_for"]

_POINTS = 4096  # that levels are sought for; more are first drawn together
_EXACT = 2**16  # points times levels that the full dynamic programme goes through


def _one_more(points: Points, before: NDArray) -> tuple[NDArray, NDArray]:
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
        found = before[tried] + points.cost(tried, np.repeat(ends, lengths))
        least[ends] = np.minimum.reduceat(found, starts)
        hits = np.flatnonzero(found == np.repeat(least[ends], lengths))
        begin[ends] = tried[hits[np.searchsorted(hits, starts)]]
        step //= 2
    return least, begin


def _programme(points: Points, most: int, enough: float) -> Levels:
    n = len(points)
    least = points.cost(np.zeros(n, dtype=np.int64), np.arange(1, n + 1))
    least = np.concatenate([[0.0], least])
    begins = [np.zeros(n + 1, dtype=np.int64)]
    while len(begins) < min(most, n) and least[n] > enough:
        least, begin = _one_more(points, least)
        begins.append(begin)
    bounds = [n]
    for begin in reversed(begins):
        bounds.append(int(begin[bounds[-1]]))
    return points.means(np.unique(bounds))


def _fewest(points: Points, few: int, most: int, enough: float) -> Levels:
    """The fewest levels that are ``enough``, above ``few``, which are not; ``most`` where these are too few."""
    found = banded(points, most)
    tried, error = most, points.error(found)
    if error > enough:
        return found
    while most - few > 1:
        guess = math.ceil(tried * math.sqrt(error / enough))  # errors fall with the square of the levels
        tried = min(max(guess, few + 1), most - 1)
        levels = banded(points, tried)
        error = points.error(levels)
        if error <= enough:
            found, most = levels, tried
        else:
            few = tried
    return found


def levels_for(points: Points, most: int, enough: float = 0.0) -> Levels:
    """:func:`best_levels` for points that are in order."""
    few = points.fewer(_POINTS)
    levels = _levels_of_few(few, min(most, len(few)), enough)
    return levels if few is points else lloyd(points, levels)


def _levels_of_few(points: Points, most: int, enough: float) -> Levels:
    exact = max(_EXACT // len(points), 1)
    if most <= exact:
        return _programme(points, most, enough)
    # the programme's first levels may do; where there are many points, it is looked at beforehand
    if enough > 0 and (len(points) < _POINTS or points.error(banded(points, exact)) <= enough):
        levels = _programme(points, exact, enough)
        if points.error(levels) <= enough:
            return levels
    if most == len(points):
        return points.at
    return _fewest(points, exact, most, enough) if enough > 0 else banded(points, most)


def best_levels(points: Numbers, weights: Numbers, most: int, enough: float = 0.0) -> Levels:
    """The fewest ascending levels of which Σ weight · (point − nearest level)² is ``enough`` or less; at most ``most``.

    Where distinct points times levels are 65,536 or less, the sum is the least for their number (Wang & Song 2011,
    Ckmeans.1d.dp, with the search of Wu 1991). Beyond, it is next to that: see
    :mod:`bayesprune.sparse.saving.coding.bands`. More than 4,096 distinct points are first drawn together into as many,
    and Lloyd's algorithm ends on all of them.

    Args:
        points: the numbers, finite, at least one.
        weights: above 0.
        most: levels, at least 1.
        enough: of the sum.

    >>> best_levels(np.array([0.0, 1.0, 10.0, 11.0]), np.ones(4), most=2)
    array([ 0.5, 10.5])
    """
    return levels_for(in_order(points, weights), most, enough)
