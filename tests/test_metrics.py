"""Metrics against scikit-learn, and against loops where it has none."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss

from bayesprune.metrics import entropy, error, expected_calibration_error, negative_log_likelihood


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
