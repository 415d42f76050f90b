"""The truncated log-normal of structured dropout, and its KL from the truncated log-uniform.

Neklyudov et al. 2017, *Structured Bayesian Pruning via Log-Normal Multiplicative Noise*, arXiv:1705.07283.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import register_kl

from bayesprune.distributions.prior import Prior

__all__ = ["TruncatedLogNormal", "TruncatedLogUniform"]


def _log_gap(low: Tensor, high: Tensor) -> Tensor:
    """log(Φ(high) − Φ(low)) for low < high, in the tail where both numbers are small."""
    flip = low > 0
    a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
    upper, lower = torch.special.log_ndtr(b), torch.special.log_ndtr(a)
    return upper + torch.log1p(-(lower - upper).exp().clamp_max(1 - 1e-7))


class TruncatedLogNormal(dist.TorchDistribution):
    """θ with log θ ~ N(μ, σ²) cut to [low, high] (Neklyudov et al. 2017).

    Args:
        loc, scale: μ and σ, of one shape.
        low, high: the range of log θ.

    >>> TruncatedLogNormal(torch.tensor(-1.0), torch.tensor(0.1)).moments()[0]
    tensor(0.3697)
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.positive
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, low: float = -20.0, high: float = 0.0) -> None:
        self.loc, self.scale, self.low, self.high = loc, scale, low, high
        super().__init__(loc.shape, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "TruncatedLogNormal":
        return TruncatedLogNormal(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.low, self.high)

    def edges(self) -> tuple[Tensor, Tensor]:
        """(low − μ)/σ and (high − μ)/σ."""
        return (self.low - self.loc) / self.scale, (self.high - self.loc) / self.scale

    def log_mass(self) -> Tensor:
        """log of the normal's mass between the edges."""
        return _log_gap(*self.edges())

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        shape = torch.Size(sample_shape) + self.batch_shape
        below, above = (torch.special.ndtr(e) for e in self.edges())
        tiny = torch.finfo(self.loc.dtype).eps
        u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        x = torch.special.ndtri((below + u * (above - below)).clamp(tiny, 1 - tiny))
        return (self.loc + self.scale * x).clamp(self.low, self.high).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        x = value.log()
        normal = -0.5 * ((x - self.loc) / self.scale).square() - self.scale.log() - 0.5 * math.log(2 * math.pi)
        return normal - self.log_mass() - x

    def moments(self) -> tuple[Tensor, Tensor]:
        """E[θ] and E[θ²]: exp(kμ + k²σ²/2) times the mass of N(μ + kσ², σ²) between the edges."""
        low, high = self.edges()
        mass = _log_gap(low, high)
        first, second = (
            (
                k * self.loc
                + 0.5 * k**2 * self.scale.square()
                + _log_gap(low - k * self.scale, high - k * self.scale)
                - mass
            ).exp()
            for k in (1, 2)
        )
        return first, second


class TruncatedLogUniform(Prior):
    """log θ uniform on [low, high]: p(θ) = 1/(θ (high − low)), proper."""

    support = constraints.positive

    def __init__(
        self, shape: torch.Size | tuple[int, ...], low: float = -20.0, high: float = 0.0, like: Tensor | None = None
    ) -> None:
        self.low, self.high = low, high
        super().__init__(shape, like)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "TruncatedLogUniform":
        return TruncatedLogUniform(batch_shape, self.low, self.high, self.like)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.blank(sample_shape).uniform_(self.low, self.high).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        return -value.log() - math.log(self.high - self.low)


@register_kl(TruncatedLogNormal, TruncatedLogUniform)
def _kl_truncated(q: TruncatedLogNormal, p: TruncatedLogUniform) -> Tensor:
    """log((high − low)/(σ √(2πe))) − log Z − (a φ(a) − b φ(b))/(2Z), a and b the edges."""
    low, high = q.edges()
    mass = q.log_mass()
    density = [(-0.5 * e.square() - 0.5 * math.log(2 * math.pi) - mass).exp() for e in (low, high)]
    width = math.log(p.high - p.low) - 0.5 * math.log(2 * math.pi * math.e)
    return width - q.scale.log() - mass - 0.5 * (low * density[0] - high * density[1])
