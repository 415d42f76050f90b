"""The scale-mixture prior: a zero-mean mixture of a wide and a narrow Gaussian.

Blundell et al. 2015, *Weight Uncertainty in Neural Networks*, arXiv:1505.05424.
"""

import math

import torch
from pyro.distributions import constraints
from torch import Tensor

from bayesprune.distributions.prior import Prior

__all__ = ["ScaleMixture"]


class ScaleMixture(Prior):
    """p(w) = π N(0, wide²) + (1 − π) N(0, narrow²), entries independent (Blundell et al. 2015).

    Args:
        shape: the batch shape.
        wide, narrow: standard deviations.
        fraction: π, the weight of the wide part, in (0, 1).
        like: a tensor whose dtype and device draws have.

    It has no closed-form KL from a Gaussian; an ELBO takes log q − log p at the draw.

    >>> ScaleMixture((2,), wide=1.0, narrow=0.1).log_prob(torch.tensor([0.0, 1.0]))
    tensor([ 0.7858, -2.1121])
    """

    support = constraints.real

    def __init__(
        self,
        shape: torch.Size | tuple[int, ...],
        wide: float,
        narrow: float,
        fraction: float = 0.5,
        like: Tensor | None = None,
    ) -> None:
        if not wide > narrow > 0 or not 0 < fraction < 1:
            raise ValueError(
                f"ScaleMixture needs wide > narrow > 0 and 0 < fraction < 1, got wide={wide}, narrow={narrow}, "
                f"fraction={fraction}"
            )
        self.wide, self.narrow, self.fraction = wide, narrow, fraction
        super().__init__(shape, like)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "ScaleMixture":
        return ScaleMixture(batch_shape, self.wide, self.narrow, self.fraction, self.like)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        noise = self.blank(sample_shape).normal_()
        return noise * torch.where(torch.rand_like(noise) < self.fraction, self.wide, self.narrow)

    def log_prob(self, value: Tensor) -> Tensor:
        wide, narrow = _part(value, self.wide, self.fraction), _part(value, self.narrow, 1 - self.fraction)
        return torch.logaddexp(wide, narrow)


def _part(value: Tensor, scale: float, fraction: float) -> Tensor:
    const = math.log(fraction) - math.log(scale) - 0.5 * math.log(2 * math.pi)
    return const - 0.5 * (value / scale).square()
