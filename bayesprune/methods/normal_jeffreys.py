"""Gaussian scales per group under a normal-Jeffreys prior (BC-GNJ).

Louizos, Ullrich & Welling 2017, *Bayesian Compression for Deep Learning*, arXiv:1705.08665.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayesprune.distributions import LazyNormal, LogUniform
from bayesprune.methods.base import Method, Posterior, check_start
from bayesprune.methods.empirical import by_group
from bayesprune.methods.weight import Weight
from bayesprune.patterns import Channel, Pattern

__all__ = ["NormalJeffreys"]


@dataclass(frozen=True)
class NormalJeffreys(Method):
    """Group normal-Jeffreys (BC-GNJ): a scale z per group, p(z) ∝ 1/|z|, p(w | z) = N(0, z²) (Louizos et al. 2017).

    Non-centred: w = z w̃ with p(w̃) = N(0, r²), q(z) = N(μ_z, σ_z²), q(w̃) = N(μ, σ²), so that the KL is variational
    dropout's per group plus a Gaussian's per weight. Given z the weight is Gaussian, and activations
    are sampled. The paper has r = 1; as p(z) has no scale, r assumes nothing. Here it is the group's √ mean (μ² + σ²),
    at which the ELBO is greatest: a trained net then need not be rescaled before its KL is small.

    Args:
        pattern: the groups that share a scale; the paper's are neurons and filters.
        log_alpha_threshold: where to cut by the paper's rule, which keeps a group if log α_z = log σ_z² − log μ_z² is
            at most this. The paper reads it off a histogram: none by default.
        init_log_scale: log σ of the weights at the start, when μ is the trained weight.
        init_log_group: log σ_z at the start, when μ_z is 1.
        clip: both are held within exp of this range; the starts lie in it.

    >>> NormalJeffreys(Channel(0)).pattern
    Channel(axis=0)
    """

    pattern: Pattern = Channel(0)  # noqa: RUF009
    log_alpha_threshold: float | None = None
    init_log_scale: float = -4.0
    init_log_group: float = -3.0
    clip: tuple[float, float] = (-10.0, 2.0)
    snr_threshold: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        check_start(self, self.init_log_scale, self.clip)
        check_start(self, self.init_log_group, self.clip)

    def posterior(self, weight: Weight) -> Posterior:
        return _NormalJeffreysPosterior(weight, self)


class _NormalJeffreysPosterior(Posterior):
    lr_multipliers: ClassVar[Mapping[str, float]] = {"group_loc": 3.0, "log_group": 10.0, "log_scale": 10.0}
    per_entry: ClassVar[frozenset[str]] = frozenset({"loc", "log_scale"})
    per_group: ClassVar[frozenset[str]] = frozenset({"group_loc", "log_group"})

    def __init__(self, weight: Weight, method: NormalJeffreys) -> None:
        super().__init__(weight)
        self.method = method
        self.loc = nn.Parameter(weight.tensor.clone())
        self.log_scale = nn.Parameter(torch.full_like(weight.tensor, method.init_log_scale))
        self.group_loc = nn.Parameter(weight.tensor.new_ones(weight.grid))
        self.log_group = nn.Parameter(torch.full_like(self.group_loc, method.init_log_group))

    def prior(self) -> Tensor:
        z = self.sample(LogUniform(self.group_loc.shape, like=self.group_loc), "z")
        r = by_group(self.loc.square() + (2 * self.log_scale).exp(), self.pattern, self.layout)
        w = self.sample(dist.Normal(torch.zeros_like(r), r, validate_args=False))
        return w * self.pattern.expand(z, self.layout)

    def guide(self) -> None:
        self.clamp_("log_group", *self.method.clip)
        self.clamp_("log_scale", *self.method.clip)
        self.sample(dist.Normal(self.param("group_loc"), self.param("log_group").exp(), validate_args=False), "z")
        self.sample(LazyNormal(self.param("loc"), self.param("log_scale").exp()))

    def moments(self) -> tuple[Tensor, Tensor]:
        z = self.pattern.expand(self.group_loc, self.layout)
        var_z = self.pattern.expand((2 * self.log_group).exp(), self.layout)
        var_w = (2 * self.log_scale).exp()
        return z * self.loc, z.square() * var_w + var_z * (self.loc.square() + var_w)

    def kept_by_paper(self) -> Tensor | None:
        """log α_z is at most ``log_alpha_threshold``."""
        if self.method.log_alpha_threshold is None:
            return None
        return 2 * (self.log_group - self.group_loc.abs().log()) <= self.method.log_alpha_threshold
