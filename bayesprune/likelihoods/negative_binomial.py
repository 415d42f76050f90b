"""Counts that vary more than Poisson's."""

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from bayesprune.likelihoods.numbers import Numbers
from bayesprune.likelihoods.poisson import check_counts

__all__ = ["NegativeBinomial"]


class NegativeBinomial(Numbers):
    """Counts 0, 1, 2, … with mean μ and variance μ + μ²/r: the output is log μ.

    Args:
        dispersion: r, one for all; the larger, the nearer to Poisson's. ``None`` learns it, from 1.

    Hilbe 2011, *Negative Binomial Regression*, the NB2 form.

    >>> NegativeBinomial(dispersion=1.0).log_prob(torch.zeros(1, 1), torch.zeros(1, 1))  # geometric: one half
    tensor([-0.6931])
    """

    takes_integers = True
    log_dispersion: Tensor

    def __init__(self, dispersion: float | None = None) -> None:
        super().__init__()
        self.learn("dispersion", dispersion, "how far counts are from Poisson's")

    @property
    def dispersion(self) -> float:
        """r, as it is now."""
        return math.exp(self.log_dispersion.item())

    def check_range(self, y: Tensor) -> None:
        check_counts(y)

    def each(self, output: Tensor) -> TorchDistributionMixin:
        r = self.learned("dispersion", output)
        return dist.NegativeBinomial(r, logits=output - r.log(), validate_args=False)

    def cdf(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        from scipy.special import betainc  # torch has none

        r = self.dispersion
        failure = torch.sigmoid(math.log(r) - output).double().cpu().numpy()
        k = y.expand(output.shape).double().cpu().numpy()
        below, at = (torch.from_numpy(betainc(r, (k + more).clip(1e-300), failure)).to(output) for more in (0, 1))
        return torch.where(y > 0, below, 0.0), at
