"""The log-uniform prior of variational dropout, p(w) ∝ 1/|w|, and its KL from a Gaussian.

Kingma, Salimans & Welling 2015, *Variational Dropout and the Local Reparameterization Trick*, arXiv:1506.02557,
section 3.3.
Molchanov, Ashukha & Vetrov 2017, *Variational Dropout Sparsifies Deep Neural Networks*, arXiv:1701.05369, eq. 8.
Hron, Matthews & Ghahramani 2018, *Variational Bayesian Dropout: Pitfalls and Fixes*, arXiv:1807.01969.

With α = σ²/μ², the KL of N(μ, σ²) from the log-uniform depends on α alone, up to the constant that an improper prior
leaves open; here it is chosen so that KL → 0 as α → ∞.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions import constraints
from scipy import special
from torch import Tensor
from torch.distributions import register_kl

from bayesprune.distributions.prior import Prior

__all__ = ["LogUniform", "kl_exact", "kl_fit", "log_alpha"]

FLOOR = 1e-16
"""Added to μ² so that log α stays finite at μ = 0 (Molchanov's code adds 1e-8 to |μ|)."""


class LogUniform(Prior):
    """p(w) ∝ 1/|w|, uniform in log|w|, its sign a coin's (Kingma et al. 2015, section 3.3; Molchanov et al. 2017,
    eq. 8).

    Args:
        shape: the batch shape.
        low, high: a draw has log|w| uniform in this range.
        exact: whether :func:`torch.distributions.kl_divergence` takes :func:`kl_exact` rather than :func:`kl_fit`.
        like: a tensor whose dtype and device draws have.

    Drawing needs a proper distribution, the KL of variational dropout needs the improper one (the KL from a Gaussian
    to a truncated one is infinite, Hron et al. 2018). So ``log_prob`` is −log|w| − log(2 (high − low)) *everywhere*,
    outside the range too: an extension, not a density.

    >>> LogUniform(torch.Size([2])).log_prob(torch.tensor([0.5, 50.0]))
    tensor([-2.9957, -7.6009])
    """

    support = constraints.real

    def __init__(
        self,
        shape: torch.Size | tuple[int, ...],
        low: float = -20.0,
        high: float = 0.0,
        exact: bool = False,
        like: Tensor | None = None,
    ) -> None:
        if not low < high:
            raise ValueError(f"LogUniform needs low < high, got low={low}, high={high}")
        self.low, self.high, self.exact = low, high, exact
        super().__init__(shape, like)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "LogUniform":
        return LogUniform(batch_shape, self.low, self.high, self.exact, self.like)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        u = self.blank(sample_shape).uniform_(self.low, self.high)
        return u.exp() * (torch.randint_like(u, 2) * 2 - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        return -0.5 * (value.square() + FLOOR**2).log() - math.log(2 * (self.high - self.low))

    @property
    def kl_offset(self) -> float:
        """What Monte Carlo, log q − ``log_prob``, gives beyond the registered KL, nats per entry."""
        return (
            math.log(2 * (self.high - self.low))
            - 0.5 * math.log(2 * math.pi * math.e)
            + 0.5 * (math.log(2) + float(special.digamma(0.5)))
        )


def log_alpha(loc: Float[Tensor, "*shape"], scale: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log α = log σ² − log μ², the dropout rate of variational dropout; −2 log SNR."""
    return 2 * scale.log() - (loc.square() + FLOOR).log()


_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695


def _gate(la: Tensor) -> Tensor:
    return torch.sigmoid(-(_K2 + _K3 * la))  # 1 − σ(k2 + k3 log α)


def _fit_slope(la: Tensor, gate: Tensor) -> Tensor:
    return (gate * gate).sub_(gate).mul_(_K1 * _K3).sub_(torch.sigmoid(-la), alpha=0.5)


class _Fit(torch.autograd.Function):
    """Value and slope in one go: the chain that autograd would build costs three times as much."""

    @staticmethod
    def forward(ctx: Any, la: Tensor) -> Tensor:
        gate = _gate(la)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(la, _fit_slope(la, gate))
        return gate.mul_(_K1).add_(torch.nn.functional.softplus(-la), alpha=0.5)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        la, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants the second derivative
            slope = _fit_slope(la, _gate(la))
        return grads[0] * slope


def kl_fit(la: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Molchanov et al. 2017, eq. 14, in nats: within 0.0094 of :func:`kl_exact` for every log α.

    >>> kl_fit(torch.tensor([-5.0, 0.0, 5.0]))
    tensor([3.1367, 0.4312, 0.0034])
    """
    return _Fit.apply(la)


@cache
def _chebyshev() -> tuple[list[float], list[float]]:
    """Coefficients over z = (u − 1)/(u + 1) of KL − ½ log(1 + 4eᵞu) and of slope · (1 + 2u), u = 1/(2α)."""
    n = 64
    z = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    u = (1 + z) / (1 - z)
    t, w = np.polynomial.legendre.leggauss(400)
    t, w = (t + 1) / 2, w / 2
    gap = 1 - t**2
    near = np.minimum(u, 2000.0)[:, None]
    kl = (-np.expm1(-near * gap) / gap) @ w
    k = 4 * math.exp(np.euler_gamma)
    far = -1 / (4 * u) - 3 / (16 * u**2) - 0.5 * np.log1p(1 / (k * u))  # Dawson's asymptotic series, integrated
    value = np.where(u < 2000, kl - 0.5 * np.log1p(k * near[:, 0]), far)
    slope = special.dawsn(np.sqrt(u)) / np.sqrt(u) * (1 + 2 * u)
    fits = (np.polynomial.chebyshev.chebfit(z, f, 40) for f in (value, slope))
    first, second = (f.tolist() for f in fits)
    return first, second


def _clenshaw(coefficients: list[float], z: Tensor) -> Tensor:
    b1, b2 = torch.zeros_like(z), torch.zeros_like(z)
    for c in reversed(coefficients[1:]):
        b1, b2 = (2 * z * b1).sub_(b2).add_(c), b1
    return (z * b1).sub_(b2).add_(coefficients[0])


def _exact_slope(u: Tensor, z: Tensor) -> Tensor:
    return -_clenshaw(_chebyshev()[1], z) * u / (1 + 2 * u)


def _u_and_z(la: Tensor) -> tuple[Tensor, Tensor]:
    u = (-la).exp() * 0.5
    return u, torch.where(u < 1e6, (u - 1) / (u + 1), 1.0)


class _Exact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, la: Tensor) -> Tensor:
        u, z = _u_and_z(la)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(la, _exact_slope(u, z))
        return _clenshaw(_chebyshev()[0], z) + 0.5 * torch.log1p(4 * math.exp(np.euler_gamma) * u)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        la, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants the second derivative
            slope = _exact_slope(*_u_and_z(la))
        return grads[0] * slope


def kl_exact(la: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The KL that :func:`kl_fit` approximates, in nats.

    With u = 1/(2α), d KL/du = D(√u)/√u, D Dawson's integral (Hron et al. 2018), so
    KL = ∫₀¹ (1 − e^{−u(1−t²)})/(1 − t²) dt. That integral and its slope are tabulated once as Chebyshev series.
    """
    return _Exact.apply(la)


@register_kl(dist.Normal, LogUniform)
def _kl_normal_log_uniform(q: dist.Normal, p: LogUniform) -> Tensor:
    la = log_alpha(q.loc, q.scale)
    return kl_exact(la) if p.exact else kl_fit(la)
