"""Group variational dropout: one Gaussian multiplier per group of weights, under a log-uniform prior.

The group form of:
Molchanov, Ashukha & Vetrov 2017, *Variational Dropout Sparsifies Deep Neural Networks*, arXiv:1701.05369.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayesprune.distributions import LazyNormal, LogUniform
from bayesprune.methods.base import Method, Posterior, check_start
from bayesprune.methods.weight import Weight
from bayesprune.patterns import Pattern, Unstructured

__all__ = ["GroupVD"]


@dataclass(frozen=True)
class GroupVD(Method):
    """Group variational dropout: w = z_g θ with one multiplier z per group, and a log-uniform prior on it.

    The group form of Molchanov et al. 2017 (and of Louizos et al. 2017, arXiv:1705.08665, without noise of
    the weights' own):

    - ``tied=False``: q(z_g) = N(μ_g, σ_g²), θ deterministic. Noise is perfectly correlated within a group, and the KL
      is one term per group, a function of α_g = σ_g²/μ_g² (Molchanov et al., eq. 14).
    - ``tied=True``: q(w) = N(μ_g θ, σ_g² θ²), noise independent from weight to weight with one α_g = σ_g²/μ_g² for
      the group, the KL one such term per *weight*. Draws are Gaussian, so activations are sampled.

    Args:
        pattern: the groups.
        tied: see above.
        init_log_scale: log σ at the start; μ starts at 1 and θ at the trained weight.
        clip: σ is held within exp of this range; the start lies in it.

    As in the unstructured case α > e³ is noise: SNR < e^(−3/2) = 0.22.

    >>> from bayesprune.patterns import Block
    >>> GroupVD(Block(4, 1), tied=True).pattern
    Block(h=4, w=1)
    """

    pattern: Pattern = Unstructured()  # noqa: RUF009
    tied: bool = False
    init_log_scale: float = -3.0
    clip: tuple[float, float] = (-10.0, 2.0)
    snr_threshold: ClassVar[float | None] = math.exp(-1.5)

    def __post_init__(self) -> None:
        check_start(self, self.init_log_scale, self.clip)

    def posterior(self, weight: Weight) -> Posterior:
        return (_TiedPosterior if self.tied else _GroupVDPosterior)(weight, self)


class _GroupVDPosterior(Posterior):
    lr_multipliers: ClassVar[Mapping[str, float]] = {"loc": 3.0, "log_scale": 10.0}
    per_entry: ClassVar[frozenset[str]] = frozenset({"theta"})
    per_group: ClassVar[frozenset[str]] = frozenset({"loc", "log_scale"})

    def __init__(self, weight: Weight, method: GroupVD) -> None:
        super().__init__(weight)
        self.method = method
        self.theta = nn.Parameter(weight.tensor.clone())
        self.loc = nn.Parameter(weight.tensor.new_ones(weight.grid))
        self.log_scale = nn.Parameter(torch.full_like(self.loc, method.init_log_scale))

    def prior(self) -> Tensor:
        theta = self.param("theta")
        z = self.sample(LogUniform(self.loc.shape, like=self.loc), "z")
        return theta * self.pattern.expand(z, self.layout)

    def guide(self) -> None:
        self.clamp_("log_scale", *self.method.clip)
        self.sample(dist.Normal(self.param("loc"), self.param("log_scale").exp(), validate_args=False), "z")

    def moments(self) -> tuple[Tensor, Tensor]:
        mean = self.pattern.expand(self.loc, self.layout)
        var = self.pattern.expand((2 * self.log_scale).exp(), self.layout)
        return mean * self.theta, var * self.theta.square()


class _TiedPosterior(_GroupVDPosterior):
    def prior(self) -> Tensor:
        return self.sample(LogUniform(self.theta.shape, like=self.theta))

    def guide(self) -> None:
        self.clamp_("log_scale", *self.method.clip)
        theta = self.param("theta")
        mean = self.pattern.expand(self.param("loc"), self.layout)
        scale = self.pattern.expand(self.param("log_scale").exp(), self.layout)
        # a weight at 0 has no noise, but the logarithm in the KL wants some
        self.sample(LazyNormal(mean * theta, scale * theta.abs() + 1e-12))
