"""Real targets around the net's output, with one noise for all."""

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from bayesprune.likelihoods.numbers import Numbers

__all__ = ["Normal"]


class Normal(Numbers):
    """Real targets: the output is the mean of y, with one noise for all.

    Args:
        noise: the standard deviation of y around the mean, in y's units; ``None`` learns it, from 1.

    >>> Normal(noise=1.0).log_prob(torch.zeros(2, 1), torch.zeros(2, 1))
    tensor([-0.9189, -0.9189])
    """

    log_noise: Tensor

    def __init__(self, noise: float | None = None) -> None:
        super().__init__()
        self.learn("noise", noise, "the target's standard deviation")

    @property
    def noise(self) -> float:
        """The noise's standard deviation, in y's units."""
        return math.exp(self.log_noise.item())

    def each(self, output: Tensor) -> TorchDistributionMixin:
        return dist.Normal(output, self.learned("noise", output), validate_args=False)

    def cdf(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at = torch.special.ndtr((y - output) / self.noise)
        return at, at
