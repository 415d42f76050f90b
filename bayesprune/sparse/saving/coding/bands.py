"""Levels for many points next to the best: dynamic programming among a few places for each bound between two levels.

The full programme goes through all points for each level in turn. Here bounds start where an optimal quantiser of many
levels has them (Panter & Dite 1951, *Quantization Distortion in Pulse-Count Modulation with Nonuniform Spacing of
Levels*, Proc. IRE 39). Levels then go from where they save least to where they save most. At last all bounds go to
their best places together, each within a band: near by, point by point, and where its neighbours are, up to 16 levels
away.
"""

import numpy as np
from numpy.typing import NDArray

from bayesprune.sparse.saving.coding.points import Levels, Places, Points

__all__ = ["banded", "lloyd"]

_ROUNDS = 20  # of Lloyd's algorithm, where it ends on all points
_EXCHANGES, _SETTLE = 30, 2  # rounds of levels that move far, and of Lloyd's algorithm after each
_PASSES, _GAIN = 8, 1e-4  # through the band, while one gains as much
_INNER = np.array([1 / 64, 1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1])
_LEVELS = np.concatenate([_INNER, [1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 12, 16]])  # how far a bound may go, in levels
_NEAR = np.arange(1, 4)  # and in points
_TOGETHER = 16


def _rising(bounds: Places, n: int) -> Places:
    """``bounds`` moved as far as it takes for each run to hold a point; the first is 0, the last ``n``."""
    count = np.arange(len(bounds))
    bounds = np.maximum.accumulate(np.maximum(bounds - count, 0)) + count
    return np.minimum(bounds, n - count[::-1])


def _start(points: Points, levels: int) -> Places:
    """Bounds at equal shares of the integral of the cube root of the density."""
    gaps = np.diff(points.at)
    widths = np.concatenate([gaps[:1], (gaps[1:] + gaps[:-1]) / 2, gaps[-1:]])
    filled = np.cumsum(np.cbrt(points.weight * widths**2))
    inner = np.searchsorted(filled, filled[-1] * np.arange(1, levels) / levels) + 1
    return _rising(np.concatenate([[0], inner, [len(points)]]), len(points))


def _settled(points: Points, bounds: Places, rounds: int) -> Places:
    """Lloyd's algorithm, in which no run becomes empty."""
    for _ in range(rounds):
        moved = _rising(points.bounds(points.means(bounds)), len(points))
        if (moved == bounds).all():
            break
        bounds = moved
    return bounds


def _exchanged(points: Points, bounds: Places) -> Places | None:
    """Runs cut in two where that saves most, and neighbours joined where that costs least; None where none gains."""
    lengths, costs = np.diff(bounds), points.cost(bounds[:-1], bounds[1:])
    first, end = np.repeat(bounds[:-1], lengths), np.repeat(bounds[1:], lengths)
    saves = np.zeros(len(points))
    inner = np.flatnonzero(np.arange(len(points)) > first)
    cut = points.cost(first[inner], inner) + points.cost(inner, end[inner])
    saves[inner] = np.repeat(costs, lengths)[inner] - cut
    saved = np.maximum.reduceat(saves, bounds[:-1])
    joined = points.cost(bounds[:-2], bounds[2:]) - costs[:-1] - costs[1:]
    used = np.zeros(len(costs), dtype=bool)
    joins = iter(np.argsort(joined))
    cuts, gone = [], []
    for run in np.argsort(-saved):
        if used[run]:
            continue
        used[run] = True
        pair = next((pair for pair in joins if not used[pair] and not used[pair + 1]), None)
        if pair is None or saved[run] <= joined[pair] * (1 + _GAIN):
            break
        used[pair : pair + 2] = True
        cuts.append(bounds[run] + int(saves[bounds[run] : bounds[run + 1]].argmax()))
        gone.append(pair + 1)
    return np.sort(np.concatenate([np.delete(bounds, gone), cuts])).astype(np.int64) if cuts else None


def _band(bounds: Places) -> Places:
    """The places that each inner bound may go to, ascending: (bounds, places)."""
    n, levels = bounds[-1], len(bounds) - 1
    at = np.arange(1, levels)[:, None]
    far = np.concatenate([-_LEVELS, [0.0], _LEVELS])
    neighbours = np.rint(np.interp(at + far, np.arange(levels + 1), bounds)).astype(np.int64)
    near = bounds[1:-1, None] + np.concatenate([-_NEAR, _NEAR])
    return np.clip(np.sort(np.concatenate([neighbours, near], axis=1), axis=1), at, n - levels + at)


def _best_in(points: Points, band: Places) -> Places:
    """The best bounds of which each lies in its row of ``band``.

    What a run costs is Σ w·x² less (Σ w·x)² / Σ w: the first sums to the same whatever the bounds, so the second is
    made the largest.
    """
    weight, total, _ = (x[band] for x in points.sums)
    most = total[0] ** 2 / weight[0]
    came: list[NDArray[np.int64]] = []
    columns = np.arange(band.shape[1])
    for start in range(0, len(band) - 1, _TOGETHER):  # a few levels at once, whose numbers stay in the cache
        before, after = slice(start, min(start + _TOGETHER, len(band) - 1)), slice(start + 1, start + 1 + _TOGETHER)
        length = weight[after, None, :] - weight[before, :, None]  # (bound, place before, place)
        sums = total[after, None, :] - total[before, :, None]
        np.multiply(sums, sums, out=sums)
        with np.errstate(divide="ignore", invalid="ignore"):
            sums /= length
        sums[length <= 0] = -np.inf
        for step in sums:  # one level more
            step += most[:, None]
            came.append(step.argmax(0))
            most = step[came[-1], columns]
    end, whole = points.sums[0][-1] - weight[-1], points.sums[1][-1] - total[-1]
    found = [int((most + whole**2 / end).argmax())]
    for back in reversed(came):
        found.append(int(back[found[-1]]))
    return np.concatenate([[0], band[np.arange(len(band)), found[::-1]], [len(points)]])


def banded(points: Points, levels: int) -> Levels:
    """``levels`` levels of ``points``, of which there are more.

    >>> from bayesprune.sparse.saving.coding.points import in_order
    >>> banded(in_order(np.array([0.0, 1.0, 10.0, 11.0]), None), 2)
    array([ 0.5, 10.5])
    """
    if levels == 1:
        return points.means(np.array([0, len(points)]))
    bounds = _start(points, levels)
    for _ in range(_EXCHANGES):
        moved = _exchanged(points, bounds)
        if moved is None:
            break
        bounds = _settled(points, moved, _SETTLE)
    before = np.inf
    for _ in range(_PASSES):
        bounds = _best_in(points, _band(bounds))
        error = float(points.cost(bounds[:-1], bounds[1:]).sum())
        if error >= before * (1 - _GAIN):
            break
        before = error
    return points.means(bounds)


def lloyd(points: Points, levels: Levels) -> Levels:
    """Each level moved to the mean of what is nearest to it, a few times over; one that nothing is near to is left out.

    >>> from bayesprune.sparse.saving.coding.points import in_order
    >>> lloyd(in_order(np.array([0.0, 1.0, 9.0]), None), np.array([0.0, 4.0]))
    array([0.5, 9. ])
    """
    for _ in range(_ROUNDS):
        moved = points.means(np.unique(points.bounds(levels)))
        if len(moved) == len(levels) and np.allclose(moved, levels, rtol=1e-9, atol=0.0):
            break
        levels = moved
    return levels
