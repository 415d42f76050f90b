"""Figures of every kind against scikit-learn's and scipy's, on mixtures of several draws."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics
from torch import Tensor

from bayesprune import likelihoods as of
from bayesprune.evaluation.classification import entropy_split
from bayesprune.evaluation.scoring import losses, score

DRAWS, N = 3, 400
G = torch.Generator().manual_seed(3)


def random(*shape: int) -> Tensor:
    return torch.randn(DRAWS, N, *shape, generator=G, dtype=torch.float64)


def test_labels() -> None:
    logits, y = random(4), torch.randint(0, 4, (N,), generator=G)
    p = logits.softmax(-1).mean(0)
    found = score(of.Categorical(weight=[1.0, 2.0, 3.0, 4.0], label_smoothing=0.2), logits, y)
    assert found.nll == pytest.approx(metrics.log_loss(y, p))
    assert found.error == pytest.approx(1 - metrics.accuracy_score(y, p.argmax(-1)))
    assert found.brier == pytest.approx(metrics.brier_score_loss(y, p, labels=range(4), scale_by_half=False))
    recall = metrics.recall_score(y, p.argmax(-1), average=None)
    assert found.class_errors == pytest.approx(tuple(1 - recall))
    each = losses(of.Categorical(), logits, y)
    assert each.one_answer == pytest.approx(1 - int(y.bincount().max()) / N)


def test_pixels_without_a_label_count_for_nothing() -> None:
    logits, y = random(3, 2, 2), torch.randint(0, 3, (N, 2, 2), generator=G)
    y[torch.rand(y.shape, generator=G) < 0.4] = 255
    likelihood = of.Categorical(class_axis=1, ignore_index=255)
    found = score(likelihood, torch.stack([likelihood.take(one) for one in logits]), y)
    there = y != 255
    p = logits.softmax(2).mean(0).movedim(1, -1)[there]
    assert found.n == int(there.sum())
    assert found.nll == pytest.approx(metrics.log_loss(y[there], p))
    assert found.error == pytest.approx(1 - metrics.accuracy_score(y[there], p.argmax(-1)))


def test_soft_labels_are_scored_by_their_shares() -> None:
    logits, y = random(3), torch.rand(N, 3, generator=G, dtype=torch.float64)
    y = y / y.sum(-1, keepdim=True)
    found, p = score(of.Categorical(), logits, y), logits.softmax(-1).mean(0)
    assert found.nll == pytest.approx(float(-(y * p.log()).sum(-1).mean()))
    assert found.brier == pytest.approx(float((y - p).square().sum(-1).mean()))
    assert found.error == pytest.approx(float((y.argmax(-1) != p.argmax(-1)).double().mean()))


def test_several_labels() -> None:
    logits, y = random(5), (torch.rand(N, 5, generator=G) > 0.6).float()
    p = logits.sigmoid().mean(0)
    found = score(of.Bernoulli(pos_weight=3.0), logits, y)
    assert found.n == N * 5
    assert found.error == pytest.approx(metrics.hamming_loss(y, p > 0.5))
    assert found.nll == pytest.approx(np.mean([metrics.log_loss(y[:, k], p[:, k]) for k in range(5)]))
    assert found.brier == pytest.approx(np.mean([metrics.brier_score_loss(y[:, k], p[:, k]) for k in range(5)]))
    wrong = [1 - metrics.accuracy_score(y[:, k], p[:, k] > 0.5) for k in range(5)]
    assert found.class_errors == pytest.approx(tuple(wrong))
    y[::2, 1] = -100
    known = y[:, 1] >= 0
    found = score(of.Bernoulli(), logits, y)
    assert found.class_errors is not None
    assert found.class_errors[1] == pytest.approx(1 - metrics.accuracy_score(y[known, 1], p[known, 1] > 0.5))


SCIPY = {
    "normal": (of.Normal(0.7), lambda out: stats.norm(out, 0.7)),
    "poisson": (of.Poisson(), lambda out: stats.poisson(np.exp(out))),
    "negative binomial": (of.NegativeBinomial(1.7), lambda out: stats.nbinom(1.7, 1.7 / (1.7 + np.exp(out)))),
    "gamma": (of.Gamma(2.5), lambda out: stats.gamma(2.5, scale=np.exp(out) / 2.5)),
    "log-normal": (of.LogNormal(0.6), lambda out: stats.lognorm(0.6, scale=np.exp(out))),
}


@pytest.mark.parametrize("name", SCIPY)
def test_numbers(name: str) -> None:
    likelihood, scipys = SCIPY[name]
    outputs = 0.5 * random(2)
    dist = scipys(outputs.numpy())
    y = dist.rvs(random_state=np.random.default_rng(0))[0].astype(float)
    each = losses(likelihood, outputs, torch.from_numpy(y))
    log_p = (dist.logpdf if hasattr(dist.dist, "pdf") else dist.logpmf)(y).sum(-1)
    assert each.nll.numpy() == pytest.approx(-(np.logaddexp.reduce(log_p, 0) - np.log(DRAWS)), rel=1e-6, abs=1e-6)
    found = score(likelihood, outputs, torch.from_numpy(y))
    assert found.rmse == pytest.approx(metrics.mean_squared_error(y, dist.mean().mean(0)) ** 0.5, rel=1e-6)
    discrete = not hasattr(dist.dist, "pdf")
    at, below = dist.cdf(y).mean(0), dist.cdf(y - 1 if discrete else y).mean(0)
    inside = (at >= 0.025) & (below <= 0.975)
    assert bool((each.inside == torch.from_numpy(inside)).all())
    assert found.coverage is not None and found.coverage > 0.9
    epistemic, aleatoric = likelihood.uncertainty(outputs)
    assert epistemic.numpy() == pytest.approx(dist.mean().var(0, ddof=1), rel=1e-6, abs=1e-12)
    assert aleatoric.numpy() == pytest.approx(dist.var().mean(0), rel=1e-6)


def test_a_noise_for_each() -> None:
    outputs, y = 0.5 * random(2, 2), torch.randn(N, 2, generator=G, dtype=torch.float64)
    dist = stats.norm(outputs[..., 0], np.exp(0.5 * outputs[..., 1]))
    each = losses(of.Heteroscedastic(), outputs, y)
    log_p = dist.logpdf(y).sum(-1)
    assert each.nll.numpy() == pytest.approx(-(np.logaddexp.reduce(log_p, 0) - np.log(DRAWS)))
    epistemic, aleatoric = of.Heteroscedastic().uncertainty(outputs)
    assert epistemic.numpy() == pytest.approx(dist.mean().var(0, ddof=1))
    assert aleatoric.numpy() == pytest.approx(dist.var().mean(0))


def test_uncertainty_of_labels_is_the_split_of_the_entropy() -> None:
    logits = random(4)
    split = entropy_split(logits.softmax(-1))
    for one, two in zip(of.Categorical().uncertainty(logits), split[1:], strict=True):
        torch.testing.assert_close(one, two)
    marks = random(2)
    both = torch.stack([marks.sigmoid(), 1 - marks.sigmoid()], -1)
    for one, two in zip(of.Bernoulli().uncertainty(marks), entropy_split(both)[1:], strict=True):
        torch.testing.assert_close(one, two)


def test_several_outputs_have_a_joint_likelihood_and_figures_of_their_own() -> None:
    kinds, sizes = random(3), random(1)
    y = {"kind": torch.randint(0, 3, (N,), generator=G), "size": torch.randn(N, 1, generator=G, dtype=torch.float64)}
    both = of.Several({"kind": of.Categorical(), "size": of.Normal(0.9)})
    found = score(both, {"kind": kinds, "size": sizes}, y)
    log_p = torch.log_softmax(kinds, -1).gather(-1, y["kind"].expand(DRAWS, N)[..., None])[..., 0]
    log_p = log_p.numpy() + stats.norm(sizes[..., 0], 0.9).logpdf(y["size"][:, 0])
    assert found.nll == pytest.approx(-(np.logaddexp.reduce(log_p, 0) - np.log(DRAWS)).mean())
    assert found.parts["kind"] == score(of.Categorical(), kinds, y["kind"])
    assert found.parts["size"].rmse == pytest.approx(score(of.Normal(0.9), sizes, y["size"]).rmse)
