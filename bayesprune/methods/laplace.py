"""Mean-field Gaussian posterior with a Laplace prior: the Bayesian lasso.

Park & Casella 2008, *The Bayesian Lasso*, Journal of the American Statistical Association 103.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
from torch import Tensor

from bayesprune.methods.base import Method, Posterior, check_start
from bayesprune.methods.empirical import mean_size, shared
from bayesprune.methods.mean_field import MeanField
from bayesprune.methods.weight import Weight
from bayesprune.patterns import Pattern, Unstructured

__all__ = ["Laplace"]


@dataclass(frozen=True)
class Laplace(Method):
    """The Bayesian lasso: q(w) = N(μ, σ²), p(w) = Laplace(0, b), under which the posterior mode is the lasso's.

    Park & Casella 2008; here the posterior is variational rather than sampled. The KL is closed form, with
    E|w| of a folded normal: log(2b) − ½ log(2πe σ²) + (σ √(2/π) e^(−μ²/2σ²) + μ erf(μ/(σ√2)))/b.

    Args:
        pattern: which entries are pruned together.
        prior: the prior's scale b; its standard deviation is √2 b. ``None`` learns one b per weight (empirical Bayes):
            the ELBO's best is b = mean of E|w| over the kept entries.
        init_log_scale: log σ at the start, when μ is the trained weight.
        clip: σ is held within exp of this range; the start lies in it.

    The lasso's zeros are those of its mode. A posterior mean is never 0, and the paper gives no threshold on SNR.

    >>> Laplace(prior=0.1).prior
    0.1
    """

    pattern: Pattern = Unstructured()  # noqa: RUF009
    prior: float | None = None
    init_log_scale: float = -4.0
    clip: tuple[float, float] = (-10.0, 2.0)
    snr_threshold: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        if self.prior is not None and not 0 < self.prior < math.inf:
            raise ValueError(f"Laplace's prior is a scale b > 0 or None to learn it, got {self.prior!r}")
        check_start(self, self.init_log_scale, self.clip)

    def posterior(self, weight: Weight) -> Posterior:
        return _LaplacePosterior(weight, self)


class _LaplacePosterior(MeanField):
    def __init__(self, weight: Weight, method: Laplace) -> None:
        super().__init__(weight, method.init_log_scale, method.clip)
        self.method = method

    def prior(self) -> Tensor:
        zero = self.loc.new_zeros(())
        prior = self.method.prior
        b = shared(mean_size(self.loc, self.log_scale.exp()), self.counted()) if prior is None else zero + prior
        return self.sample(dist.Laplace(zero, b, validate_args=False).expand(self.loc.shape))
