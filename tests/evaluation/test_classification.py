"""Metrics against scikit-learn and torchmetrics, and against loops where they have none."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, recall_score
from torchmetrics.functional.classification import multiclass_calibration_error

from bayesprune.evaluation.classification import (
    brier_score,
    class_errors,
    entropy,
    entropy_split,
    error,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_bins,
    wilson_interval,
)


def predictions(
    n: int = 400, classes: int = 6, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return (2 * torch.randn(n, classes, dtype=dtype)).softmax(-1), torch.randint(classes, (n,))


def calibration_by_loop(probs: torch.Tensor, y: torch.Tensor, bins: int) -> float:
    """Guo et al. 2017, eq. 3, bin by bin and example by example; bins are (low, high]."""
    total = 0.0
    tops = probs.double().max(1)
    rows = [(p, c == t) for p, c, t in zip(tops.values.tolist(), tops.indices.tolist(), y.tolist(), strict=True)]
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = [(p, right) for p, right in rows if low < p <= high]
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            confidence = sum(p for p, _ in inside) / len(inside)
            total += len(inside) / len(rows) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_error_and_likelihood_are_scikit_learns(dtype):
    probs, y = predictions(dtype=dtype)
    assert error(probs, y) == pytest.approx(1 - accuracy_score(y.numpy(), probs.argmax(1).numpy()), abs=1e-12)
    exact = probs.double() / probs.double().sum(1, keepdim=True)
    expected = log_loss(y.numpy(), exact.numpy(), labels=np.arange(6))
    assert negative_log_likelihood(probs, y) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bins", [1, 2, 10, 15, 40])
@pytest.mark.parametrize("classes", [2, 6])
def test_calibration_error_is_what_a_loop_over_bins_gives(bins, classes):
    probs, y = predictions(classes=classes)
    assert expected_calibration_error(probs, y, bins) == pytest.approx(calibration_by_loop(probs, y, bins), abs=1e-12)
    theirs = multiclass_calibration_error(probs, y, probs.shape[1], n_bins=bins)
    assert expected_calibration_error(probs, y, bins) == pytest.approx(float(theirs), abs=1e-6)


def test_a_confidence_on_the_edge_of_two_bins_falls_into_the_lower():
    probs = torch.tensor([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([1, 0, 1])
    # over four bins: {0.5: wrong} {0.75: right} {1: wrong}; with edges in the upper bin the last two would share one
    assert expected_calibration_error(probs, y, 4) == pytest.approx((0.5 + 0.25 + 1.0) / 3)
    assert expected_calibration_error(probs, y, 4) == pytest.approx(calibration_by_loop(probs, y, 4))


def test_a_forecaster_that_draws_from_its_own_probabilities_is_calibrated():
    probs, _ = predictions(n=50_000)
    y = torch.multinomial(probs, 1).squeeze(1)
    assert expected_calibration_error(probs, y) < 0.02


def test_a_certain_mistake_costs_a_finite_likelihood():
    for dtype in (torch.float32, torch.float64):
        nll = negative_log_likelihood(torch.tensor([[1.0, 0.0]], dtype=dtype), torch.tensor([1]))
        assert nll == pytest.approx(-math.log(torch.finfo(dtype).tiny))


def test_entropy_is_scipys_and_zero_for_a_certain_forecast():
    probs, _ = predictions()
    np.testing.assert_allclose(entropy(probs).numpy(), stats.entropy(probs.numpy(), axis=1), rtol=1e-10)
    assert entropy(torch.tensor([[1.0, 0.0]])).item() == 0.0
    assert entropy(probs.reshape(4, 100, 6)).shape == (4, 100)


@pytest.mark.parametrize("classes", [2, 6])
def test_brier_score_is_scikit_learns(classes):
    probs, y = predictions(classes=classes)
    expected = brier_score_loss(y.numpy(), probs.numpy(), labels=np.arange(classes), scale_by_half=False)
    assert brier_score(probs, y) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bins", [5, 10])
def test_reliability_bins_are_scikit_learns(bins):
    probs, y = predictions(n=2_000)
    count, confidence, accuracy = reliability_bins(probs, y, bins)
    right = (probs.argmax(1) == y).numpy()
    expected_accuracy, expected_confidence = calibration_curve(right, probs.max(1).values.numpy(), n_bins=bins)
    filled = count > 0
    np.testing.assert_allclose(accuracy[filled].numpy(), expected_accuracy, atol=1e-12)
    np.testing.assert_allclose(confidence[filled].numpy(), expected_confidence, atol=1e-12)
    assert count.sum() == 2_000
    assert bool(accuracy[~filled].isnan().all()) and not bool(filled.all())


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_wilson_interval_is_scipys(level):
    n = torch.tensor([1, 1, 7, 50, 50, 1000])
    k = torch.tensor([0, 1, 3, 0, 50, 12])
    low, high = wilson_interval(k, n, level)
    for i in range(len(n)):
        expected = stats.binomtest(int(k[i]), int(n[i])).proportion_ci(level, method="wilson")
        assert (float(low[i]), float(high[i])) == pytest.approx((expected.low, expected.high), abs=1e-12)
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        wilson_interval(k, n, 95)


def test_class_errors_are_one_minus_scikit_learns_recalls():
    probs, y = predictions()
    found = class_errors(probs, y)
    np.testing.assert_allclose(found.error.numpy(), 1 - recall_score(y.numpy(), probs.argmax(1).numpy(), average=None))
    assert found.n.tolist() == np.bincount(y.numpy(), minlength=6).tolist()
    mean = float((found.error * found.n).sum() / found.n.sum())
    assert mean == pytest.approx(error(probs, y), abs=1e-12)
    assert bool(((found.low <= found.error) & (found.error <= found.high)).all())


def test_a_class_without_examples_has_no_error():
    found = class_errors(torch.eye(3)[:2], torch.tensor([0, 1]))
    assert found.error[:2].tolist() == [0, 0]
    assert all(bool(part[2].isnan()) for part in (found.error, found.low, found.high))


def test_the_split_of_entropy_is_scipys_mutual_information():
    draws = (2 * torch.randn(7, 50, 4, dtype=torch.float64)).softmax(-1)
    total, epistemic, aleatoric = entropy_split(draws)
    p = draws.numpy()
    np.testing.assert_allclose(total.numpy(), stats.entropy(p.mean(0), axis=-1), rtol=1e-10)
    np.testing.assert_allclose(aleatoric.numpy(), stats.entropy(p, axis=-1).mean(0), rtol=1e-10)
    # mutual information: the mean divergence of each draw from the mean of all
    np.testing.assert_allclose(epistemic.numpy(), stats.entropy(p, p.mean(0)[None], axis=-1).mean(0), rtol=1e-8)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64]
)
def test_labels_of_any_width_give_the_same_figures(dtype):
    probs, y = predictions()
    narrow = y.to(dtype)
    for metric in (error, negative_log_likelihood, brier_score, expected_calibration_error):
        assert metric(probs, narrow) == metric(probs, y)
    for mine, theirs in zip(class_errors(probs, narrow), class_errors(probs, y), strict=True):
        assert torch.equal(mine, theirs)
