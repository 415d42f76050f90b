"""One row of an honest table: a model's error, likelihood and calibration on one data set."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from bayesprune.metrics import error, expected_calibration_error, negative_log_likelihood
from bayesprune.observations import CategoricalObservation, NormalObservation

__all__ = ["Score", "score", "standard_error"]


@dataclass(frozen=True)
class Score:
    """How good a predictive distribution is on a data set.

    Attributes:
        n: how many examples.
        error: the fraction of wrong classes; ``None`` for real targets.
        rmse: the root mean squared error, in the target's units; ``None`` for classes.
        nll: −log p(y), nats per example.
        ece: expected calibration error over 15 bins; ``None`` for real targets.
    """

    n: int
    error: float | None
    rmse: float | None
    nll: float
    ece: float | None


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
        wrong, nll = error(probs, y), negative_log_likelihood(probs, y)
        return Score(len(y), wrong, None, nll, expected_calibration_error(probs, y))
    if isinstance(observation, NormalObservation):
        y = observation.check(outputs[0], y).double()
        rmse = float((outputs.mean(0) - y).square().mean().sqrt())
        noise = observation.noise
        log_p = -0.5 * ((outputs - y) / noise).square() - math.log(noise) - 0.5 * math.log(2 * math.pi)
        mixture = log_p.flatten(2).sum(-1).logsumexp(0) - math.log(len(outputs))
        return Score(len(y), None, rmse, float(-mixture.mean()), None)
    raise ValueError("what the net's output means is not known: make a model with bp.classify or bp.regress first")


def standard_error(fraction: float, n: int) -> float:
    """The standard error of a fraction of n examples, a binomial's."""
    return math.sqrt(max(fraction * (1 - fraction), 0.0) / n)
