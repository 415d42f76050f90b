"""The levels of many numbers against the full dynamic programme, whatever their distribution."""

import numpy as np
import pytest

from bayesprune.sparse.saving.coding import kmeans
from bayesprune.sparse.saving.coding.bands import banded
from bayesprune.sparse.saving.coding.kmeans import _programme, best_levels, levels_for
from bayesprune.sparse.saving.coding.points import in_order, nearest


def _pruned(rng, n):
    x = rng.normal(size=3 * n)
    return x[np.abs(x) > 0.8][:n]


DISTRIBUTIONS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails": lambda rng, n: rng.standard_t(2, size=n),
    "Cauchy": lambda rng, n: rng.standard_cauchy(size=n),
    "uniform": lambda rng, n: rng.uniform(size=n),
    "two heaps": lambda rng, n: np.concatenate([rng.normal(-1, 0.1, n // 2), rng.normal(1, 0.1, n - n // 2)]),
    "pruned": _pruned,
    "log-normal": lambda rng, n: np.exp(2 * rng.normal(size=n)),
    "far outliers": lambda rng, n: np.append(1e-3 * rng.normal(size=n), [5.0, -7.0]),
    "far from 0": lambda rng, n: 1e4 + rng.normal(size=n),
}


def error(points, weights, levels):
    return float(weights @ (points - levels[nearest(points, levels)]) ** 2)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_levels_are_next_to_the_best(name, weighted):
    rng = np.random.default_rng(0)
    points = DISTRIBUTIONS[name](rng, 1500)
    weights = np.exp(rng.normal(size=len(points))) if weighted else np.ones(len(points))
    ordered = in_order(points, weights)
    for most in (20, 64, 150):
        best, found = _programme(ordered, most, 0.0), banded(ordered, most)
        assert len(found) == most and (np.diff(found) > 0).all()
        assert error(points, weights, best) <= error(points, weights, found) * (1 + 1e-9)
        assert error(points, weights, found) <= 1.01 * error(points, weights, best)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_more_points_than_the_programme_takes_come_out_as_it_would_have_them(name, monkeypatch):
    rng = np.random.default_rng(1)
    points = DISTRIBUTIONS[name](rng, 12_000)
    errors = []
    for exact in (2**16, 2**30):  # as it is, and by the full programme
        monkeypatch.setattr(kmeans, "_EXACT", exact)
        errors.append(in_order(points, None).error(levels_for(in_order(points, None), 40)))
    assert errors[0] <= 1.005 * errors[1]


def test_as_few_levels_as_the_full_programme_finds():
    points = in_order(np.random.default_rng(0).normal(size=3000), None)
    for count in (30, 77):
        enough = points.error(_programme(points, count, 0.0))
        found = levels_for(points, 256, 1.001 * enough)
        assert count <= len(found) <= count + 1
        assert points.error(found) <= 1.001 * enough
    assert len(levels_for(points, 40, 1e-12)) == 40


def test_as_many_levels_as_points_are_the_points():
    points = np.random.default_rng(0).normal(size=700)
    for most in (700, 5000):
        assert np.allclose(best_levels(np.tile(points, 2), np.ones(1400), most), np.sort(points), rtol=1e-12)


def test_errors_by_sums_are_those_of_each_point():
    rng = np.random.default_rng(0)
    points, weights = np.round(rng.normal(5, 1, size=4000), 2), np.exp(rng.normal(size=4000))
    levels = np.sort(rng.normal(5, 1, size=30))
    assert in_order(points, weights).error(levels) == pytest.approx(error(points, weights, levels), rel=1e-9)
    assert in_order(points, None).error(levels) == pytest.approx(error(points, np.ones(4000), levels), rel=1e-9)
    assert len(in_order(points, None)) == len(np.unique(points))
