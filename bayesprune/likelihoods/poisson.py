"""Counts whose variance is their mean."""

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from bayesprune.likelihoods.numbers import Numbers

__all__ = ["Poisson", "check_counts"]


class Poisson(Numbers):
    """Counts 0, 1, 2, …: the output is the logarithm of the mean.

    ``torch.nn.PoissonNLLLoss(log_input=True)`` with the exact log y!, summed over an example's counts.

    >>> Poisson().log_prob(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    tensor([-2.])
    """

    takes_integers = True

    def check_range(self, y: Tensor) -> None:
        check_counts(y)

    def each(self, output: Tensor) -> TorchDistributionMixin:
        return dist.Poisson(output.exp(), validate_args=False)

    def cdf(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        rate, y = output.exp(), y.expand(output.shape)
        below = torch.where(y > 0, torch.special.gammaincc(y.clamp_min(1), rate), 0.0)
        return below, torch.special.gammaincc(y + 1, rate)


def check_counts(y: Tensor) -> None:
    """Raise ``ValueError`` unless ``y`` holds whole numbers ≥ 0."""
    if not bool(((y >= 0) & (y == y.floor() if y.is_floating_point() else y >= 0)).all()):
        raise ValueError(
            f"targets must be counts, 0, 1, 2, …, got numbers from {y.min().item():g} to {y.max().item():g}"
        )
