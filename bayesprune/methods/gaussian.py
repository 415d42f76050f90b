"""Mean-field Gaussian posterior with a Gaussian or scale-mixture prior ("Bayes by Backprop").

Graves 2011, *Practical Variational Inference for Neural Networks*, NeurIPS 24.
Blundell et al. 2015, *Weight Uncertainty in Neural Networks*, arXiv:1505.05424.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
from torch import Tensor

from bayesprune.distributions import ScaleMixture
from bayesprune.methods.base import Method, Posterior, check_start
from bayesprune.methods.empirical import shared
from bayesprune.methods.mean_field import MeanField
from bayesprune.methods.weight import Weight
from bayesprune.patterns import Pattern, Unstructured

__all__ = ["Gaussian", "TwoScales"]


@dataclass(frozen=True)
class TwoScales:
    """The scale-mixture prior of Blundell et al. 2015: a wide Gaussian with probability ``fraction``, or a narrow one.

    Args:
        wide, narrow: standard deviations, wide > narrow > 0.
        fraction: the wide part's probability, in (0, 1).
    """

    wide: float = 1.0
    narrow: float = math.exp(-6)
    fraction: float = 0.5

    def __post_init__(self) -> None:
        ScaleMixture((), self.wide, self.narrow, self.fraction)


@dataclass(frozen=True)
class Gaussian(Method):
    """Mean-field Gaussian posterior, q(w) = N(μ, σ²) entry by entry ("Bayes by Backprop").

    Args:
        pattern: which entries are pruned together.
        prior: the prior's standard deviation s (Graves 2011), :class:`TwoScales`, or ``None``, which learns one s per
            weight (empirical Bayes): the ELBO's best is s² = mean of μ² + σ² over the kept entries. With one s the
            KL is closed form, ½ (σ² + μ²)/s² − ½ − log(σ/s); with the mixture it is taken at the draw, as
            Blundell et al. do.
        init_log_scale: log σ at the start, when μ is the trained weight.
        clip: σ is held within exp of this range; the start lies in it.

    Graves prunes by the density at 0, which is a threshold on SNR, but leaves its value open: hence none here.

    >>> Gaussian(prior=TwoScales()).prior.wide
    1.0
    """

    pattern: Pattern = Unstructured()  # noqa: RUF009
    prior: float | TwoScales | None = None
    init_log_scale: float = -4.0
    clip: tuple[float, float] = (-10.0, 2.0)
    snr_threshold: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        if isinstance(self.prior, (int, float)) and not 0 < self.prior < math.inf:
            raise ValueError(
                f"Gaussian's prior is a standard deviation > 0, TwoScales(…) or None to learn it, got {self.prior!r}"
            )
        check_start(self, self.init_log_scale, self.clip)

    def posterior(self, weight: Weight) -> Posterior:
        return _GaussianPosterior(weight, self)


class _GaussianPosterior(MeanField):
    def __init__(self, weight: Weight, method: Gaussian) -> None:
        super().__init__(weight, method.init_log_scale, method.clip)
        self.method = method

    def prior(self) -> Tensor:
        prior, shape = self.method.prior, self.loc.shape
        if isinstance(prior, TwoScales):
            return self.sample(ScaleMixture(shape, prior.wide, prior.narrow, prior.fraction, like=self.loc))
        zero = self.loc.new_zeros(())
        s = shared(self.second_moment(), self.counted()).sqrt() if prior is None else zero + prior
        return self.sample(dist.Normal(zero, s, validate_args=False).expand(shape))
