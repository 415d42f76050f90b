"""L0 regularisation: a hard-concrete gate per group of weights, which can be exactly 0.

Louizos, Welling & Kingma 2018, *Learning Sparse Neural Networks through L0 Regularization*, arXiv:1712.01312.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayesprune.distributions import LazyNormal
from bayesprune.distributions.hard_concrete import HardConcreteGate, L0Gate
from bayesprune.methods.base import Method, Posterior, check_start
from bayesprune.methods.empirical import shared
from bayesprune.methods.weight import Weight
from bayesprune.patterns import Pattern, Unstructured

__all__ = ["HardConcrete"]


@dataclass(frozen=True)
class HardConcrete(Method):
    """L0 regularisation: a gate per group that can be exactly 0, and a cost per open gate (Louizos et al. 2018).

    w = z_g θ, z_g hard concrete; the KL is cost · P(z_g ≠ 0), the relaxed L0 norm. θ is deterministic, as in
    the paper, or Gaussian.

    Args:
        pattern: the groups; the paper's are input neurons and filters.
        cost: λ, nats per open gate for the whole data set (the paper's λ/N times N).
        init_open: P(z ≠ 0) at the start.
        temperature: β; the paper's 2/3.
        stretch: (γ, ζ); the paper's (−0.1, 1.1).
        gaussian: whether θ has a posterior N(μ, σ²) under N(0, s²) rather than being deterministic.
        slab: s, where ``gaussian``; ``None`` learns one per weight (empirical Bayes): the ELBO's best s² is the mean of
            μ² + σ² over the kept entries.
        init_log_scale: log σ at the start, where ``gaussian``.
        clip: log σ is held in this range, log α in (−10, 10); the start lies in it.

    The paper drops a group whose test-time gate is 0, clip(σ(log α)(ζ − γ) + γ) = 0, no threshold on SNR.

    >>> HardConcrete(cost=5.0).posterior(Weight("w", torch.ones(2), Unstructured())).inclusion()
    tensor([0.9000, 0.9000], grad_fn=<SigmoidBackward0>)
    """

    pattern: Pattern = Unstructured()  # noqa: RUF009
    cost: float = 1.0
    init_open: float = 0.9
    temperature: float = 2 / 3
    stretch: tuple[float, float] = (-0.1, 1.1)
    gaussian: bool = False
    slab: float | None = None
    init_log_scale: float = -4.0
    clip: tuple[float, float] = (-10.0, 2.0)
    snr_threshold: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        if not self.cost >= 0:
            raise ValueError(f"HardConcrete's cost is in nats per open gate, ≥ 0, got {self.cost}")
        if not 0 < self.init_open < 1 or not self.temperature > 0:
            raise ValueError(
                f"HardConcrete needs 0 < init_open < 1 and temperature > 0, got {self.init_open}, {self.temperature}"
            )
        if self.slab is not None and not self.slab > 0:
            raise ValueError(f"HardConcrete's slab is a standard deviation > 0 or None to learn it, got {self.slab!r}")
        if not self.stretch[0] < 0 or not self.stretch[1] > 1:
            raise ValueError(f"HardConcrete's stretch is (γ, ζ) with γ < 0 and ζ > 1, got {self.stretch}")
        if abs(self.start) > 10:
            raise ValueError(
                f"HardConcrete's init_open={self.init_open} starts log α at {self.start:.3g}, outside (−10, 10), where "
                "it is held"
            )
        check_start(self, self.init_log_scale, self.clip)

    @property
    def start(self) -> float:
        """log α at which P(z ≠ 0) is ``init_open``."""
        low, high = self.stretch
        return math.log(self.init_open / (1 - self.init_open)) + self.temperature * math.log(-low / high)

    def posterior(self, weight: Weight) -> Posterior:
        return (_GaussianHardConcretePosterior if self.gaussian else _HardConcretePosterior)(weight, self)


class _HardConcretePosterior(Posterior):
    lr_multipliers: ClassVar[Mapping[str, float]] = {"log_alpha": 5.0}
    per_entry: ClassVar[frozenset[str]] = frozenset({"loc"})
    per_group: ClassVar[frozenset[str]] = frozenset({"log_alpha"})

    def __init__(self, weight: Weight, method: HardConcrete) -> None:
        super().__init__(weight)
        self.method = method
        self.log_alpha = nn.Parameter(weight.tensor.new_full(weight.grid, method.start))
        first, _ = self._gate(self.log_alpha.detach()).moments()
        # the posterior's mean starts at the weight
        self.loc = nn.Parameter(weight.tensor / self.pattern.expand(first, self.layout))

    def prior(self) -> Tensor:
        z = self.sample(L0Gate(self.log_alpha.shape, self.method.cost, like=self.log_alpha), "gate")
        return self._slab_prior() * self.pattern.expand(z, self.layout)

    def guide(self) -> None:
        self.clamp_("log_alpha", -10.0, 10.0)
        self.sample(self._gate(self.param("log_alpha")), "gate")
        self.param("loc")

    def moments(self) -> tuple[Tensor, Tensor]:
        first, second = (self.pattern.expand(m, self.layout) for m in self._gate(self.log_alpha).moments())
        var_w = self._slab_variance()
        return first * self.loc, second * var_w + (second - first.square()).clamp_min(0) * self.loc.square()

    def inclusion(self) -> Tensor:
        """P(z ≠ 0) of each group."""
        return self._gate(self.log_alpha).open

    def kept_by_paper(self) -> Tensor:
        """The test-time gate is not 0."""
        low, high = self.method.stretch
        return self.log_alpha.sigmoid() * (high - low) + low > 0

    def _gate(self, log_alpha: Tensor) -> HardConcreteGate:
        return HardConcreteGate(log_alpha, self.method.temperature, self.method.stretch)

    def _slab_prior(self) -> Tensor:
        return self.param("loc")

    def _slab_variance(self) -> Tensor:
        return torch.zeros_like(self.loc)


class _GaussianHardConcretePosterior(_HardConcretePosterior):
    lr_multipliers: ClassVar[Mapping[str, float]] = {"log_alpha": 5.0, "log_scale": 10.0}
    per_entry: ClassVar[frozenset[str]] = frozenset({"loc", "log_scale"})

    def __init__(self, weight: Weight, method: HardConcrete) -> None:
        super().__init__(weight, method)
        self.log_scale = nn.Parameter(torch.full_like(weight.tensor, method.init_log_scale))

    def guide(self) -> None:
        super().guide()
        self.clamp_("log_scale", *self.method.clip)
        self.sample(LazyNormal(self.param("loc"), self.param("log_scale").exp()))

    def _slab_prior(self) -> Tensor:
        zero, s = self.loc.new_zeros(()), self.method.slab
        best = shared(self.loc.square() + self._slab_variance(), self.counted()).sqrt() if s is None else zero + s
        return self.sample(dist.Normal(zero, best, validate_args=False).expand(self.loc.shape))

    def _slab_variance(self) -> Tensor:
        return (2 * self.log_scale).exp()
