"""Positive targets whose spread grows with their mean."""

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from bayesprune.likelihoods.numbers import Numbers

__all__ = ["Gamma", "check_positive"]


class Gamma(Numbers):
    """Positive targets, gamma distributed: the output is the logarithm of the mean.

    Args:
        shape: the distribution's shape, one for all: the mean is √shape times the standard deviation. ``None`` learns
            it, from 1.

    >>> Gamma(shape=1.0).log_prob(torch.zeros(1, 1), torch.ones(1, 1))  # exponential
    tensor([-1.])
    """

    log_shape: Tensor

    def __init__(self, shape: float | None = None) -> None:
        super().__init__()
        self.learn("shape", shape, "the squared ratio of mean and standard deviation")

    @property
    def shape(self) -> float:
        """The shape, as it is now."""
        return math.exp(self.log_shape.item())

    def check_range(self, y: Tensor) -> None:
        check_positive(y)

    def each(self, output: Tensor) -> TorchDistributionMixin:
        shape = self.learned("shape", output)
        return dist.Gamma(shape, shape * (-output).exp(), validate_args=False)

    def cdf(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        shape = torch.full_like(output, self.shape)
        at = torch.special.gammainc(shape, shape * y * (-output).exp())
        return at, at


def check_positive(y: Tensor) -> None:
    """Raise ``ValueError`` unless all of ``y`` is above 0."""
    if not bool((y > 0).all()):
        raise ValueError(f"targets must be above 0, got {y.min().item():g}")
