"""Positive targets whose logarithm is normal."""

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from bayesprune.likelihoods.gamma import check_positive
from bayesprune.likelihoods.numbers import Numbers

__all__ = ["LogNormal"]


class LogNormal(Numbers):
    """Positive targets: the output is the mean of log y, with one noise for all.

    Args:
        noise: the standard deviation of log y around it; ``None`` learns it, from 1.

    >>> LogNormal(noise=1.0).log_prob(torch.zeros(1, 1), torch.ones(1, 1))
    tensor([-0.9189])
    """

    log_noise: Tensor

    def __init__(self, noise: float | None = None) -> None:
        super().__init__()
        self.learn("noise", noise, "the standard deviation of log y")

    @property
    def noise(self) -> float:
        """The standard deviation of log y, as it is now."""
        return math.exp(self.log_noise.item())

    def check_range(self, y: Tensor) -> None:
        check_positive(y)

    def each(self, output: Tensor) -> TorchDistributionMixin:
        return dist.LogNormal(output, self.learned("noise", output), validate_args=False)

    def cdf(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at = torch.special.ndtr((y.log() - output) / self.noise)
        return at, at
