"""Automatic relevance determination: a Gaussian posterior whose prior variances are learned by empirical Bayes.

Kharitonov, Molchanov & Vetrov 2018, *Variational Dropout via Empirical Bayes*, arXiv:1811.00596.
On the improper log-uniform prior that it replaces:
Hron, Matthews & Ghahramani 2018, *Variational Bayesian Dropout: Pitfalls and Fixes*, arXiv:1807.01969.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprune.methods.base import Method, Posterior, check_start
from bayesprune.methods.empirical import by_group
from bayesprune.methods.mean_field import MeanField
from bayesprune.methods.weight import Weight
from bayesprune.patterns import Pattern, Unstructured

__all__ = ["ARD"]


@dataclass(frozen=True)
class ARD(Method):
    """Automatic relevance determination: q(w) = N(μ, σ²), prior N(0, τ²) with τ² learned (Kharitonov et al. 2018).

    The ELBO is greatest at τ² = μ² + σ², so the KL is ½ log(1 + μ²/σ²), and like variational dropout's it drives
    useless weights to σ² ≫ μ²; but the prior is proper, which the log-uniform is not (Hron et al. 2018). Over a group
    of more than one entry the group shares one τ², the mean of μ² + σ² over it.

    Args:
        pattern: which entries share a prior variance and are pruned together.
        init_log_scale: log σ at the start, when μ is the trained weight.
        clip: σ is held within exp of this range; the start lies in it.

    The paper prunes as variational dropout does, at log α > 3, which is SNR < e^(−3/2) = 0.22.

    >>> ARD().posterior(Weight("w", torch.zeros(2), Unstructured())).moments()[1]
    tensor([0.0003, 0.0003], grad_fn=<ExpBackward0>)
    """

    pattern: Pattern = Unstructured()  # noqa: RUF009
    init_log_scale: float = -4.0
    clip: tuple[float, float] = (-10.0, 2.0)
    snr_threshold: ClassVar[float | None] = math.exp(-1.5)

    def __post_init__(self) -> None:
        check_start(self, self.init_log_scale, self.clip)

    def posterior(self, weight: Weight) -> Posterior:
        return _ARDPosterior(weight, self.init_log_scale, self.clip)


class _ARDPosterior(MeanField):
    def prior(self) -> Tensor:
        tau = by_group(self.second_moment(), self.pattern, self.layout)
        return self.sample(dist.Normal(torch.zeros_like(tau), tau, validate_args=False))
