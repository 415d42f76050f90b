"""Spike and slab: a Bernoulli inclusion per group over Gaussian weights.

Bai, Song & Cheng 2020, *Efficient Variational Inference for Sparse Deep Learning with Theoretical Guarantee*,
arXiv:2011.07439.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from bayesprune.distributions import LazyNormal
from bayesprune.distributions.weighted import Weighted
from bayesprune.methods.base import Method, Posterior, check_start
from bayesprune.methods.empirical import shared
from bayesprune.methods.weight import Weight
from bayesprune.patterns import Pattern, Unstructured

__all__ = ["SpikeSlab"]


@dataclass(frozen=True)
class SpikeSlab(Method):
    """Spike and slab: w = γ_g w̃, γ ~ Bernoulli(p), w̃ ~ N(0, s²); q(γ) = Bernoulli(π), q(w̃ | γ=1) = N(μ, σ²).

    Bai et al. 2020. Where γ = 0 the weight is exactly 0 and the slab is the prior's, so the KL is that of the
    Bernoullis plus π times the Gaussian's. In evaluation mode all of that is exact. In training γ is relaxed to a
    concrete variable, prior and guide at one temperature, as in the paper, so that gradients reach π. The relaxed
    KL is that of two logistics, whatever the temperature, and bounds the Bernoullis' from above.

    Args:
        pattern: the groups that are in or out together.
        inclusion: p, the prior probability that a group is in.
        slab: s, the slab's standard deviation; ``None`` learns one per weight (empirical Bayes): the ELBO's best s² is
            the mean of μ² + σ² over the kept entries, each counted by its π.
        temperature: of the relaxation, in training.
        init_inclusion: π at the start.
        init_log_scale: log σ at the start, when μ is the trained weight.
        clip: log σ is held in this range, the logit of π in (−10, 10); the start lies in it.

    The paper keeps groups of π > ½, the median probability model, which is no threshold on SNR.

    >>> SpikeSlab(inclusion=0.1).posterior(Weight("w", torch.ones(2), Unstructured())).inclusion()
    tensor([0.9000, 0.9000], grad_fn=<SigmoidBackward0>)
    """

    pattern: Pattern = Unstructured()  # noqa: RUF009
    inclusion: float = 0.1
    slab: float | None = None
    temperature: float = 0.5
    init_inclusion: float = 0.9
    init_log_scale: float = -4.0
    clip: tuple[float, float] = (-10.0, 2.0)
    snr_threshold: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        for name in ("inclusion", "init_inclusion"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"SpikeSlab's {name} is a probability in (0, 1), got {getattr(self, name)}")
        if not ((self.slab is None or self.slab > 0) and self.temperature > 0):
            raise ValueError(
                f"SpikeSlab needs slab > 0 or None, and temperature > 0, got {self.slab} and {self.temperature}"
            )
        if abs(math.log(self.init_inclusion / (1 - self.init_inclusion))) > 10:
            raise ValueError(
                f"SpikeSlab's init_inclusion={self.init_inclusion} has a logit outside (−10, 10), where it is held"
            )
        check_start(self, self.init_log_scale, self.clip)

    def posterior(self, weight: Weight) -> Posterior:
        return _SpikeSlabPosterior(weight, self)


class _SpikeSlabPosterior(Posterior):
    lr_multipliers: ClassVar[Mapping[str, float]] = {"logit": 20.0, "log_scale": 10.0}
    per_entry: ClassVar[frozenset[str]] = frozenset({"loc", "log_scale"})
    per_group: ClassVar[frozenset[str]] = frozenset({"logit"})

    def __init__(self, weight: Weight, method: SpikeSlab) -> None:
        super().__init__(weight)
        self.method = method
        start = math.log(method.init_inclusion / (1 - method.init_inclusion))
        self.logit = nn.Parameter(weight.tensor.new_full(weight.grid, start))
        self.loc = nn.Parameter(weight.tensor / method.init_inclusion)  # the posterior's mean starts at the weight
        self.log_scale = nn.Parameter(torch.full_like(weight.tensor, method.init_log_scale))

    def prior(self) -> Tensor:
        p = self.method.inclusion
        gate = self.sample(self._gate(torch.full_like(self.logit, math.log(p / (1 - p)))), "gate")
        zero, share = self.loc.new_zeros(()), self._share(self.logit)
        slab = dist.Normal(zero, self._slab(share), validate_args=False).expand(self.loc.shape)
        w = self.sample(Weighted(slab, share))
        return w * self.pattern.expand(gate, self.layout)

    def guide(self) -> None:
        self.clamp_("logit", -10.0, 10.0)
        self.clamp_("log_scale", *self.method.clip)
        logit = self.param("logit")
        self.sample(self._gate(logit), "gate")
        slab = LazyNormal(self.param("loc"), self.param("log_scale").exp())
        self.sample(Weighted(slab, self._share(logit)))

    def moments(self) -> tuple[Tensor, Tensor]:
        share, var = self._share(self.logit), (2 * self.log_scale).exp()
        return share * self.loc, share * (var + (1 - share) * self.loc.square())

    def inclusion(self) -> Tensor:
        """π of each group."""
        return self.logit.sigmoid()

    def kept_by_paper(self) -> Tensor:
        """π > ½."""
        return self.logit > 0

    def _slab(self, share: Tensor) -> Tensor:
        if self.method.slab is not None:
            return share.new_tensor(self.method.slab)
        return shared(self.loc.square() + (2 * self.log_scale).exp(), share * self.counted()).sqrt()

    def _share(self, logit: Tensor) -> Tensor:
        return self.pattern.expand(logit.sigmoid(), self.layout)

    def _gate(self, logit: Tensor) -> TorchDistributionMixin:
        if self.training:
            temperature = logit.new_tensor(self.method.temperature)
            return dist.RelaxedBernoulli(temperature, logits=logit, validate_args=False)
        return dist.Bernoulli(logits=logit, validate_args=False)
