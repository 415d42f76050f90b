"""Score one model on one data set: error, likelihood and calibration."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesprune.evaluation.classification import (
    brier_score,
    class_errors,
    error,
    expected_calibration_error,
    negative_log_likelihood,
)
from bayesprune.evaluation.regression import coverage, gaussian_nll, predictive_cdf, root_mean_squared_error
from bayesprune.fitting.observations import CategoricalObservation, NormalObservation

__all__ = ["Losses", "Score", "losses", "score", "standard_error"]


@dataclass(frozen=True)
class Score:
    """Error, likelihood and calibration of a predictive distribution on a data set.

    Attributes:
        n: how many examples.
        error: the fraction of wrong classes; ``None`` for real targets.
        rmse: the root mean squared error, in the target's units; ``None`` for classes.
        nll: −log p(y), nats per example.
        ece: expected calibration error over 15 bins; ``None`` for real targets.
        brier: the Brier score; ``None`` for real targets.
        class_errors: the fraction of each class that is wrong, NaN where it has no example; ``None`` for real targets.
        coverage: the fraction of targets inside the central 95 % of the predictive; ``None`` for classes.
    """

    n: int
    error: float | None
    rmse: float | None
    nll: float
    ece: float | None
    brier: float | None = None
    class_errors: tuple[float, ...] | None = None
    coverage: float | None = None


def score(observation: nn.Module | None, outputs: Tensor, y: Tensor | None) -> Score:
    """Score the mixture of one or more draws.

    Args:
        observation: what the net's output means.
        outputs: the net's outputs, (draws, examples, classes or outputs).
        y: labels or targets, (examples, …).

    Raises:
        ValueError: no targets, or an unknown observation.

    >>> import torch
    >>> logits = torch.tensor([[[4.0, 0.0], [4.0, 0.0]]])
    >>> score(CategoricalObservation(), logits, torch.tensor([0, 1])).error
    0.5
    """
    if y is None:
        raise ValueError("the loader yields no targets: nothing to score against")
    outputs = outputs.double()
    if isinstance(observation, CategoricalObservation):
        y = observation.check(outputs[0], y).flatten()
        probs = outputs.softmax(-1).mean(0).flatten(0, -2)
        return Score(
            n=len(y),
            error=error(probs, y),
            rmse=None,
            nll=negative_log_likelihood(probs, y),
            ece=expected_calibration_error(probs, y),
            brier=brier_score(probs, y),
            class_errors=tuple(class_errors(probs, y).error.tolist()),
        )
    if isinstance(observation, NormalObservation):
        y = observation.check(outputs[0], y).double()
        outputs, y = outputs.reshape(*outputs.shape[:2], -1), y.reshape(len(y), -1)
        noise = observation.noise
        return Score(
            n=len(y),
            error=None,
            rmse=root_mean_squared_error(outputs.mean(0), y),
            nll=gaussian_nll(outputs, noise, y),
            ece=None,
            coverage=coverage(predictive_cdf(outputs, noise, y)),
        )
    raise ValueError("what the net's output means is not known: make a model with bp.classify or bp.regress first")


@dataclass(frozen=True)
class Losses:
    """Per-example losses of a predictive distribution, so that two can be compared on the same examples.

    Attributes:
        nll: −log p(y), nats, (examples,).
        wrong: whether the class is wrong, (examples,); ``None`` for real targets.
        confidence: the top probability, (examples,); ``None`` for real targets.
        squared: the squared error, averaged over outputs, (examples,); ``None`` for classes.
        inside: whether each target lies in the central 95 % of the predictive, (examples, outputs); ``None`` for
            classes.
    """

    nll: Tensor
    wrong: Tensor | None = None
    confidence: Tensor | None = None
    squared: Tensor | None = None
    inside: Tensor | None = None


@torch.no_grad()
def losses(
    observation: CategoricalObservation | NormalObservation, outputs: Tensor, y: Tensor, level: float = 0.95
) -> Losses:
    """What :func:`score` averages, example by example, for outputs and targets that it takes.

    >>> outputs = torch.tensor([[[4.0, 0.0], [4.0, 0.0]]])
    >>> losses(CategoricalObservation(), outputs, torch.tensor([0, 1])).wrong
    tensor([False,  True])
    """
    outputs = outputs.double()
    y = observation.check(outputs[0], y)
    if isinstance(observation, CategoricalObservation):
        outputs, y = outputs.flatten(1, -2), y.flatten()
    else:
        outputs, y = outputs.reshape(*outputs.shape[:2], -1), y.double().reshape(len(y), -1)
    log_p = torch.stack([observation(output).log_prob(y) for output in outputs])
    nll = math.log(len(outputs)) - log_p.logsumexp(0)
    if isinstance(observation, CategoricalObservation):
        confidence, predicted = outputs.softmax(-1).mean(0).max(-1)
        return Losses(nll, wrong=predicted != y, confidence=confidence)
    cdf = predictive_cdf(outputs, observation.noise, y)
    return Losses(nll, squared=(outputs.mean(0) - y).square().mean(-1), inside=(cdf - 0.5).abs() <= level / 2)


def standard_error(fraction: float, n: int) -> float:
    """The standard error of a fraction of n examples, a binomial's."""
    return math.sqrt(max(fraction * (1 - fraction), 0.0) / n)
