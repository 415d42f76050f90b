"""The hard-concrete distribution, and the expected L0 penalty as a prior on it.

Louizos, Welling & Kingma 2018, *Learning Sparse Neural Networks through L0 Regularization*, arXiv:1712.01312.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import register_kl

from bayesprune.distributions.prior import Prior

__all__ = ["HardConcreteGate", "L0Gate"]


class HardConcreteGate(dist.TorchDistribution):
    """A binary concrete variable stretched to (γ, ζ) and clipped to [0, 1] (Louizos et al. 2018).

    Args:
        log_alpha: the location, of any shape.
        temperature: β.
        stretch: (γ, ζ), γ < 0 and ζ > 1.

    >>> HardConcreteGate(torch.tensor([-9.0, 9.0])).open
    tensor([6.1002e-04, 9.9998e-01])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.unit_interval
    has_rsample = True

    def __init__(
        self, log_alpha: Tensor, temperature: float = 2 / 3, stretch: tuple[float, float] = (-0.1, 1.1)
    ) -> None:
        self.log_alpha, self.temperature, self.stretch = log_alpha, temperature, stretch
        super().__init__(log_alpha.shape, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "HardConcreteGate":
        return HardConcreteGate(self.log_alpha.expand(batch_shape), self.temperature, self.stretch)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        shape = torch.Size(sample_shape) + self.batch_shape
        tiny = torch.finfo(self.log_alpha.dtype).eps
        u = torch.rand(shape, dtype=self.log_alpha.dtype, device=self.log_alpha.device).clamp(tiny, 1 - tiny)
        s = torch.sigmoid((u.log() - torch.log1p(-u) + self.log_alpha) / self.temperature)
        low, high = self.stretch
        return (s * (high - low) + low).clamp(0, 1)

    def cdf(self, value: Tensor) -> Tensor:
        """F of the stretched variable, before clipping, for values in [0, 1]."""
        return torch.sigmoid(self._logit(value) - self.log_alpha)

    def _logit(self, value: Tensor) -> Tensor:
        low, high = self.stretch
        return self.temperature * ((value - low).log() - (high - value).log())

    @property
    def open(self) -> Tensor:
        """P(z ≠ 0) = sigmoid(log α − β log(−γ/ζ))."""
        low, high = self.stretch
        return torch.sigmoid(self.log_alpha - self.temperature * math.log(-low / high))

    def log_prob(self, value: Tensor) -> Tensor:
        at_zero = torch.log1p(-self.open)
        zero, one = torch.zeros_like(value), torch.ones_like(value)
        at_one = torch.nn.functional.logsigmoid(self.log_alpha - self._logit(one))
        inside = value.clamp(1e-6, 1 - 1e-6)
        low, high = self.stretch
        logit = self._logit(inside) - self.log_alpha
        slope = self.temperature * (1 / (inside - low) + 1 / (high - inside))
        density = torch.nn.functional.logsigmoid(logit) + torch.nn.functional.logsigmoid(-logit) + slope.log()
        return torch.where(value <= zero, at_zero, torch.where(value >= one, at_one, density))

    def moments(self) -> tuple[Tensor, Tensor]:
        """E[z] = ∫₀¹ (1 − F) and E[z²] = ∫₀¹ 2t (1 − F), by Gauss-Legendre quadrature."""
        t, w = (torch.tensor(v, dtype=self.log_alpha.dtype, device=self.log_alpha.device) for v in _legendre())
        over = torch.sigmoid(self.log_alpha[..., None] - self._logit(t))
        return (over * w).sum(-1), (2 * t * over * w).sum(-1)


@cache
def _legendre() -> tuple[tuple[float, ...], tuple[float, ...]]:
    x, w = np.polynomial.legendre.leggauss(64)
    return tuple((x + 1) / 2), tuple(w / 2)


class L0Gate(Prior):
    """log p(z) = −cost · 1[z ≠ 0], up to a constant: the price of a gate that is not shut, in nats.

    A draw is 0 or 1, with odds e^(−cost) for 1.
    """

    support = constraints.unit_interval

    def __init__(self, shape: torch.Size | tuple[int, ...], cost: float, like: Tensor | None = None) -> None:
        self.cost = cost
        super().__init__(shape, like)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "L0Gate":
        return L0Gate(batch_shape, self.cost, self.like)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        u = self.blank(sample_shape).uniform_()
        return (u < 1 / (1 + math.exp(self.cost))).to(u.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        return -self.cost * (value != 0).to(value.dtype)


@register_kl(HardConcreteGate, L0Gate)
def _kl_hard_concrete_l0(q: HardConcreteGate, p: L0Gate) -> Tensor:
    """cost · P(z ≠ 0) (Louizos et al. 2018): an expected cost, the gate's own entropy left out."""
    return p.cost * q.open
