"""The regularised horseshoe: half-Cauchy scales per group and per weight tensor, bounded by a slab (BC-GHS).

Louizos, Ullrich & Welling 2017, *Bayesian Compression for Deep Learning*, arXiv:1705.08665.
Piironen & Vehtari 2017, *Sparsity Information and Regularization in the Horseshoe and Other Shrinkage Priors*,
arXiv:1707.01694.
Ghosh, Yao & Doshi-Velez 2018, *Structured Variational Learning of Bayesian Neural Networks with Horseshoe Priors*,
arXiv:1806.05975.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayesprune.distributions import LazyNormal
from bayesprune.distributions.half_cauchy import hermite
from bayesprune.methods.base import Method, Posterior, check_start
from bayesprune.methods.weight import Weight
from bayesprune.patterns import Channel, Pattern

__all__ = ["Horseshoe"]


@dataclass(frozen=True)
class Horseshoe(Method):
    """The regularised horseshoe: w = w̃ λ̃, w̃ ~ N(0, 1), with a half-Cauchy scale per group and one per weight tensor.

    τ ~ C⁺(0, τ₀), λ_g ~ C⁺(0, 1) (Louizos et al. 2017), regularised by a slab of width c:
    λ̃² = c² τ² λ_g² / (c² + τ² λ_g²) (Piironen & Vehtari 2017, section 2.3). Non-centred (Ghosh et al. 2018); q(τ) and
    q(λ_g) are log-normal, q(w̃) normal. The KL of a log-normal from a half-Cauchy is one-dimensional quadrature; the
    papers split the half-Cauchy into gamma and inverse gamma instead, whose bound is looser.

    Args:
        pattern: the groups that share a local scale.
        global_scale: τ₀. Piironen & Vehtari: p₀/(D − p₀) · σ/√N for p₀ relevant groups of D.
        slab: c, the width of the slab; a weight far larger than it is shrunk.
        mode_threshold: where to cut by the paper's rule, which keeps a group if the mode of its scale's posterior,
            exp(μ − σ²) of the log-normal τ λ_g, is at least this. The paper reads it off a histogram: none by default.
        init_log_scale: log σ of w̃ at the start.
        init_log_group: the standard deviation of log λ and log τ at the start, as a log.
        clip: all log standard deviations are held in this range; the starts lie in it.

    At the start λ̃ is the root mean square of the weight, and w̃ makes up the rest.

    >>> Horseshoe(Channel(1), global_scale=0.01).slab
    2.0
    """

    pattern: Pattern = Channel(0)  # noqa: RUF009
    global_scale: float = 0.1
    slab: float = 2.0
    mode_threshold: float | None = None
    init_log_scale: float = -3.0
    init_log_group: float = -2.0
    clip: tuple[float, float] = (-10.0, 0.5)
    snr_threshold: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        if not (self.global_scale > 0 and self.slab > 0):
            raise ValueError(f"Horseshoe needs global_scale > 0 and slab > 0, got {self.global_scale} and {self.slab}")
        if self.mode_threshold is not None and not self.mode_threshold > 0:
            raise ValueError(f"Horseshoe's mode_threshold is a scale > 0 or None, got {self.mode_threshold!r}")
        check_start(self, self.init_log_scale, self.clip)
        check_start(self, self.init_log_group, self.clip)

    def posterior(self, weight: Weight) -> Posterior:
        return _HorseshoePosterior(weight, self)


class _HorseshoePosterior(Posterior):
    # w̃ is of order 1 and has to cross 0 where a sign is wrong before its scale has shrunk it away
    lr_multipliers: ClassVar[Mapping[str, float]] = {
        **dict.fromkeys(("loc", "log_scale", "local_log_scale", "global_log_scale"), 10.0),
        **dict.fromkeys(("local_loc", "global_loc"), 3.0),
    }
    per_entry: ClassVar[frozenset[str]] = frozenset({"loc", "log_scale"})
    per_group: ClassVar[frozenset[str]] = frozenset({"local_loc", "local_log_scale"})

    def __init__(self, weight: Weight, method: Horseshoe) -> None:
        super().__init__(weight)
        self.method = method
        spread = float(weight.tensor.square().mean().sqrt().clamp_min(1e-3))
        # τ λ such that the regularised scale is the weight's own spread
        product = spread / max(1 - (spread / method.slab) ** 2, 1e-2) ** 0.5
        new = weight.tensor.new_tensor
        self.log_scale = nn.Parameter(torch.full_like(weight.tensor, method.init_log_scale))
        self.global_loc = nn.Parameter(new([product]).log())
        self.global_log_scale = nn.Parameter(new([method.init_log_group]))
        self.local_loc = nn.Parameter(weight.tensor.new_zeros(weight.grid))
        self.local_log_scale = nn.Parameter(torch.full_like(self.local_loc, method.init_log_group))
        # the posterior's mean starts at the weight
        self.loc = nn.Parameter(weight.tensor / self._scale_moments()[0].detach())

    def prior(self) -> Tensor:
        zero = self.loc.new_zeros(())
        tau = self.sample(dist.HalfCauchy(zero + self.method.global_scale, validate_args=False).expand((1,)), "global")
        local = self.sample(dist.HalfCauchy(zero + 1, validate_args=False).expand(self.local_loc.shape), "local")
        w = self.sample(dist.Normal(zero, zero + 1, validate_args=False).expand(self.loc.shape))
        return w * self.pattern.expand(self._regularised(tau * local), self.layout)

    def guide(self) -> None:
        for leaf in ("log_scale", "global_log_scale", "local_log_scale"):
            self.clamp_(leaf, *self.method.clip)
        self.sample(self._scales("global"), "global")
        self.sample(self._scales("local"), "local")
        self.sample(LazyNormal(self.param("loc"), self.param("log_scale").exp()))

    def moments(self) -> tuple[Tensor, Tensor]:
        first, second = self._scale_moments()
        var_w = (2 * self.log_scale).exp()
        return first * self.loc, second * var_w + (second - first.square()).clamp_min(0) * self.loc.square()

    def kept_by_paper(self) -> Tensor | None:
        """The mode of τ λ_g is at least ``mode_threshold``."""
        if self.method.mode_threshold is None:
            return None
        mean, var = self._log_scale()
        return (mean - var).exp() >= self.method.mode_threshold

    def _log_scale(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of log(τ λ_g), which is normal."""
        var = (2 * self.local_log_scale).exp() + (2 * self.global_log_scale).exp()
        return self.local_loc + self.global_loc, var

    def _scale_moments(self) -> tuple[Tensor, Tensor]:
        """E[λ̃] and E[λ̃²] of each entry's group: log(τ λ) is normal, the rest is quadrature."""
        mean, var = self._log_scale()
        u, weights = hermite(mean, var.sqrt())
        scale = self._regularised(u.exp())
        first, second = ((scale**k * weights).sum(-1) for k in (1, 2))
        return self.pattern.expand(first, self.layout), self.pattern.expand(second, self.layout)

    def _scales(self, level: str) -> dist.LogNormal:
        loc, log_scale = self.param(f"{level}_loc"), self.param(f"{level}_log_scale")
        return dist.LogNormal(loc, log_scale.exp(), validate_args=False)

    def _regularised(self, scale: Tensor) -> Tensor:
        return scale / (1 + (scale / self.method.slab).square()).sqrt()
