"""The coder against entropy, and the levels of a codebook against brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesprune.sparse import Codebook
from bayesprune.sparse.saving.coding.codebook import levels_of
from bayesprune.sparse.saving.coding.entropy import Reader, Writer
from bayesprune.sparse.saving.coding.indices import read_indices, write_indices
from bayesprune.sparse.saving.coding.kmeans import best_levels
from bayesprune.sparse.saving.coding.points import nearest


def entropy(counts):
    share = counts[counts > 0] / counts.sum()
    return -float(counts[counts > 0] @ np.log2(share))


# the coder

NUMBERS = st.one_of(
    st.tuples(st.just("number"), st.integers(0, 2**50).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m)))),
    st.tuples(st.just("uniform"), st.tuples(st.lists(st.integers(0, 6), max_size=30), st.integers(7, 2**16))),
    st.tuples(st.just("symbols"), st.tuples(st.lists(st.integers(0, 9), max_size=300), st.integers(10, 2**16))),
    st.tuples(st.just("sizes"), st.lists(st.integers(0, 2**52), max_size=50)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(NUMBERS, max_size=8))
def test_whatever_is_written_is_read(written):
    writer = Writer()
    for kind, what in written:
        if kind == "number":
            writer.number(*what)
        elif kind == "sizes":
            writer.sizes(np.array(what, dtype=np.int64))
        else:
            getattr(writer, kind)(np.array(what[0], dtype=np.int64), what[1])
    data = writer.data()
    assert len(data) * 8 <= writer.bits + 40
    reader = Reader(data)
    for kind, what in written:
        if kind == "number":
            assert reader.number(what[1]) == what[0]
        elif kind == "sizes":
            assert reader.sizes(len(what), 2**53).tolist() == what
        else:
            assert getattr(reader, kind)(len(what[0]), what[1]).tolist() == what[0]
    reader.check_end()


@pytest.mark.parametrize("spread", [0.3, 2.0, 20.0])
@pytest.mark.parametrize("count", [3_000, 100_000])
def test_symbols_take_what_their_entropy_says(spread, count):
    values = np.clip(np.round(np.random.default_rng(0).normal(32, spread, count)), 0, 63).astype(np.int64)
    writer = Writer()
    writer.symbols(values, 64)
    ideal = entropy(np.bincount(values))
    assert ideal <= 8 * len(writer.data()) <= 1.02 * ideal + 400  # 64 frequencies have to be told


@pytest.mark.parametrize("density", [0.003, 0.05, 0.5])
def test_places_take_what_their_entropy_says(density):
    mask = np.random.default_rng(0).random((400, 500)) < density
    crow, col = np.concatenate([[0], np.cumsum(mask.sum(1))]), np.nonzero(mask)[1]
    writer = Writer()
    write_indices(writer, 500, crow, col)
    ideal = entropy(np.array([mask.sum(), (~mask).sum()]))
    assert ideal * 0.99 <= 8 * len(writer.data()) <= 1.03 * ideal + 100


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.floats(0, 1), st.integers(0, 2**31))
def test_any_places_come_back(rows, cols, density, seed):
    mask = np.random.default_rng(seed).random((rows, cols)) < density
    crow, col = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.int64), np.nonzero(mask)[1]
    writer = Writer()
    write_indices(writer, cols, crow, col)
    reader = Reader(writer.data())
    again = read_indices(reader, rows, cols, len(col))
    assert again[0].tolist() == crow.tolist() and again[1].tolist() == col.tolist()
    reader.check_end()


def test_columns_that_do_not_rise_are_refused():
    with pytest.raises(ValueError, match="do not rise within a row"):
        write_indices(Writer(), 5, np.array([0, 2]), np.array([3, 1]))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 20), st.integers(0, 20), st.integers(0, 60))
def test_nonsense_is_read_as_something_or_refused(data, rows, cols, count):
    try:
        crow, col = read_indices(Reader(data), rows, cols, count)
    except ValueError:
        return
    assert len(col) == crow[-1] == count and len(crow) == rows + 1
    assert count == 0 or (col.min() >= 0 and col.max() < cols and (np.diff(crow) >= 0).all())


# the levels


def least_error(points, weights, most):
    """By trying every way to cut the points."""
    distinct, where = np.unique(points, return_inverse=True)
    weights, n, best = np.bincount(where, weights), len(distinct), np.inf
    for cuts in itertools.combinations(range(1, n), min(most, n) - 1):
        bounds, total = [0, *cuts, n], 0.0
        for first, end in itertools.pairwise(bounds):
            mean = np.average(distinct[first:end], weights=weights[first:end])
            total += float(weights[first:end] @ (distinct[first:end] - mean) ** 2)
        best = min(best, total)
    return best


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-50, 50), st.floats(0.01, 100)), min_size=1, max_size=10),
    st.integers(1, 6),
    st.sampled_from([1e-6, 0.1, 1e4]),
    st.floats(-3, 3),
)
def test_levels_are_the_best_there_are(weighted, most, scale, shift):
    points = np.array([(p + shift) * scale for p, _ in weighted])
    weights = np.array([w for _, w in weighted])
    levels = best_levels(points, weights, most)
    assert len(levels) <= most and (np.diff(levels) > 0).all()
    error = float(weights @ (points - levels[nearest(points, levels)]) ** 2)
    assert error == pytest.approx(least_error(points, weights, most), rel=1e-6, abs=1e-12 * scale**2)


def test_no_more_levels_than_enough():
    points = np.random.default_rng(0).normal(size=500)
    errors = {}
    for most in range(1, 12):
        levels = best_levels(points, np.ones(500), most)
        errors[most] = float(((points - levels[nearest(points, levels)]) ** 2).sum())
    assert all(errors[k + 1] < errors[k] for k in range(1, 11))
    for most in (2, 5, 9):
        assert len(best_levels(points, np.ones(500), 256, enough=1.0001 * errors[most])) == most


def test_many_points_come_close_to_the_best():
    points = np.random.default_rng(0).normal(size=200_000)
    levels = best_levels(points, np.ones(len(points)), 16)
    error = float(((points - levels[nearest(points, levels)]) ** 2).mean())
    assert error == pytest.approx(0.009497, rel=0.03)  # Max (1960), table 1, for a standard normal


def test_weights_draw_the_levels_to_what_is_known_well():
    points = np.concatenate([np.linspace(-1, 0, 200), np.linspace(1, 2, 200)])
    sure_below = np.where(points <= 0, 100.0, 1.0)
    levels = best_levels(points, sure_below, 10)
    assert (levels <= 0).sum() > 5 > (levels > 0).sum()


def test_the_posterior_says_how_many_levels():
    torch.manual_seed(0)
    values = torch.randn(2000).double().numpy()
    counts = []
    for sd in (0.5, 0.1, 0.02):
        found = levels_of(values, np.full(2000, sd**2), torch.float32, Codebook(), 32)
        error = (values - found.entries.double().numpy()[found.which]) ** 2
        assert error.mean() <= 0.0501 * sd**2
        counts.append(len(found.entries))
    assert counts[0] < counts[1] < counts[2] <= 256
    assert len(levels_of(values, None, torch.float32, Codebook(), 32).entries) == 32
