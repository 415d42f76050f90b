"""Structured Bayesian pruning: truncated log-normal multiplicative noise per group (SBP).

Neklyudov et al. 2017, *Structured Bayesian Pruning via Log-Normal Multiplicative Noise*, arXiv:1705.07283.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bayesprune.distributions.truncated_log_normal import TruncatedLogNormal, TruncatedLogUniform
from bayesprune.methods.base import Method, Posterior, check_start
from bayesprune.methods.weight import Weight
from bayesprune.patterns import Channel, Pattern

__all__ = ["StructuredDropout"]


@dataclass(frozen=True)
class StructuredDropout(Method):
    """Structured Bayesian pruning: w = θ_g w̄, noise θ in (0, 1] per group over point weights (Neklyudov et al. 2017).

    q(θ) is log-normal, p(θ) log-uniform, both truncated to log θ in [−20, 0], so that the prior is proper.

    Args:
        pattern: the groups; the paper's are neurons and filters.
        init_loc: μ of log θ at the start.
        init_log_scale: log σ of log θ at the start.
        clip_loc, clip: μ and log σ are held in these ranges; the starts lie in them.

    The paper drops groups of SNR(θ) = E θ/√Var θ < 1.

    >>> StructuredDropout(Channel(0)).snr_threshold
    1.0
    """

    pattern: Pattern = Channel(0)  # noqa: RUF009
    init_loc: float = -0.01
    init_log_scale: float = -3.0
    clip_loc: tuple[float, float] = (-20.0, 0.0)
    clip: tuple[float, float] = (-6.0, 3.0)
    snr_threshold: ClassVar[float | None] = 1.0

    def __post_init__(self) -> None:
        check_start(self, self.init_log_scale, self.clip)
        if not -20 <= self.clip_loc[0] <= self.init_loc <= self.clip_loc[1] <= 0:
            raise ValueError(
                f"StructuredDropout needs −20 ≤ clip_loc[0] ≤ init_loc ≤ clip_loc[1] ≤ 0, got {self.clip_loc} and "
                f"{self.init_loc}"
            )

    def posterior(self, weight: Weight) -> Posterior:
        return _StructuredDropoutPosterior(weight, self)


class _StructuredDropoutPosterior(Posterior):
    lr_multipliers: ClassVar[Mapping[str, float]] = {"loc": 10.0, "log_scale": 10.0}
    per_entry: ClassVar[frozenset[str]] = frozenset({"theta"})
    per_group: ClassVar[frozenset[str]] = frozenset({"loc", "log_scale"})

    def __init__(self, weight: Weight, method: StructuredDropout) -> None:
        super().__init__(weight)
        self.method = method
        self.loc = nn.Parameter(weight.tensor.new_full(weight.grid, method.init_loc))
        self.log_scale = nn.Parameter(torch.full_like(self.loc, method.init_log_scale))
        first, _ = TruncatedLogNormal(self.loc, self.log_scale.exp()).moments()
        mean = self.pattern.expand(first.detach(), self.layout)
        self.theta = nn.Parameter(weight.tensor / mean)  # so that the posterior's mean starts at the weight

    def prior(self) -> Tensor:
        theta = self.param("theta")
        noise = self.sample(TruncatedLogUniform(self.loc.shape, like=self.loc), "noise")
        return theta * self.pattern.expand(noise, self.layout)

    def guide(self) -> None:
        self.clamp_("loc", *self.method.clip_loc)
        self.clamp_("log_scale", *self.method.clip)
        self.sample(TruncatedLogNormal(self.param("loc"), self.param("log_scale").exp()), "noise")

    def moments(self) -> tuple[Tensor, Tensor]:
        wide = TruncatedLogNormal(self.loc.double(), self.log_scale.double().exp())  # a difference of near equals
        first, second = wide.moments()
        var = (second - first.square()).clamp_min(0)
        mean, var = (self.pattern.expand(m.to(self.theta.dtype), self.layout) for m in (first, var))
        return mean * self.theta, var * self.theta.square()
