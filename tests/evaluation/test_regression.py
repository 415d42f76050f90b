"""Metrics of real targets against scikit-learn and scipy."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import root_mean_squared_error as sklearn_rmse

from bayesprune.evaluation.regression import coverage, gaussian_nll, predictive_cdf, root_mean_squared_error
from bayesprune.evaluation.scoring import score
from bayesprune.likelihoods import Normal

NOISE = 0.7


def mixture() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(5, 40, 2, dtype=torch.float64), 2 * torch.randn(40, 2, dtype=torch.float64)


def test_rmse_is_scikit_learns():
    means, y = mixture()
    expected = np.sqrt(np.mean(sklearn_rmse(y.numpy(), means[0].numpy(), multioutput="raw_values") ** 2))
    assert root_mean_squared_error(means[0], y) == pytest.approx(expected, rel=1e-12)


def test_likelihood_is_that_of_scipys_mixture():
    means, y = mixture()
    per_draw = stats.norm.pdf(y.numpy(), means.numpy(), NOISE).prod(-1)
    assert gaussian_nll(means, NOISE, y) == pytest.approx(-np.log(per_draw.mean(0)).mean(), rel=1e-10)


def test_distribution_function_is_that_of_scipys_mixture():
    means, y = mixture()
    expected = stats.norm.cdf(y.numpy(), means.numpy(), NOISE).mean(0)
    np.testing.assert_allclose(predictive_cdf(means, NOISE, y).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_one_draw_covers_what_the_normal_interval_covers(level):
    means, y = mixture()
    low, high = stats.norm.interval(level, means[0].numpy(), NOISE)
    expected = ((low <= y.numpy()) & (y.numpy() <= high)).mean()
    assert coverage(predictive_cdf(means[:1], NOISE, y), level) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_targets_drawn_from_the_predictive_are_covered_as_promised(level):
    means = torch.randn(4, 20_000, 1, dtype=torch.float64)
    y = means[torch.randint(4, (20_000,)), torch.arange(20_000)] + NOISE * torch.randn(20_000, 1, dtype=torch.float64)
    sd = (level * (1 - level) / 20_000) ** 0.5
    assert coverage(predictive_cdf(means, NOISE, y), level) == pytest.approx(level, abs=4 * sd)


def test_levels_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        coverage(torch.ones(3), level=95)


@pytest.mark.parametrize("shape", [(40, 2), (40, 1), (40,)])
def test_a_score_holds_these_figures(shape):
    outputs, y = torch.randn(5, *shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    found = score(Normal(NOISE), outputs, y)
    means, targets = outputs.reshape(5, 40, -1), y.reshape(40, -1)
    assert found.rmse == pytest.approx(root_mean_squared_error(means.mean(0), targets))
    assert found.nll == pytest.approx(gaussian_nll(means, NOISE, targets))
    assert found.coverage == coverage(predictive_cdf(means, NOISE, targets))
    assert found.n == 40 and found.error is found.ece is found.brier is found.class_errors is None
