"""Regression metrics: RMSE, log-likelihood, interval coverage.

A predictive distribution is a mixture of normals, one for each draw of the weights: means (draws, examples, outputs)
around which targets (examples, outputs) scatter with one noise.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["coverage", "gaussian_nll", "predictive_cdf", "root_mean_squared_error"]


def root_mean_squared_error(mean: Float[Tensor, "n outputs"], y: Float[Tensor, "n outputs"]) -> float:
    """The root of the mean squared error over examples and outputs, in the target's units.

    >>> round(root_mean_squared_error(torch.tensor([[1.0], [5.0]]), torch.tensor([[1.0], [1.0]])), 4)
    2.8284
    """
    return float((mean - y).double().square().mean().sqrt())


def gaussian_nll(means: Float[Tensor, "draws n outputs"], noise: float, y: Float[Tensor, "n outputs"]) -> float:
    """−log p(y) of the mixture, nats per example, its outputs taken together.

    Args:
        noise: the standard deviation of a target around a draw's mean, in its units.

    >>> round(gaussian_nll(torch.zeros(3, 1, 1), 1.0, torch.zeros(1, 1)), 4)
    0.9189
    """
    log_p = -0.5 * ((means - y) / noise).double().square() - math.log(noise) - 0.5 * math.log(2 * math.pi)
    mixture = log_p.sum(-1).logsumexp(0) - math.log(len(means))
    return float(-mixture.mean())


def predictive_cdf(
    means: Float[Tensor, "draws n outputs"], noise: float, y: Float[Tensor, "n outputs"]
) -> Float[Tensor, "n outputs"]:
    """The mixture's distribution function at the targets, output by output; uniform on [0, 1] if the predictive is
    right (the probability integral transform).

    >>> predictive_cdf(torch.zeros(2, 1, 1), 1.0, torch.zeros(1, 1)).item()
    0.5
    """
    return torch.special.ndtr((y - means).double() / noise).mean(0)


def coverage(cdf: Float[Tensor, "..."], level: float = 0.95) -> float:
    """The fraction of targets inside the central interval of the predictive: ``level``, if the predictive is right.

    Args:
        cdf: the predictive distribution function at the targets.
        level: the interval's probability, in (0, 1).

    Raises:
        ValueError: ``level`` outside (0, 1).

    >>> coverage(torch.tensor([0.5, 0.99]), level=0.95)
    0.5
    """
    if not 0 < level < 1:
        raise ValueError(f"level is the interval's probability, in (0, 1), got {level!r}")
    return float(((cdf - 0.5).abs() <= level / 2).double().mean())
