"""Sparse variational dropout: a Gaussian posterior with a dropout rate per weight, under a log-uniform prior.

Molchanov, Ashukha & Vetrov 2017, *Variational Dropout Sparsifies Deep Neural Networks*, arXiv:1701.05369.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bayesprune.distributions import LogUniform
from bayesprune.methods.base import Method, Posterior, check_start
from bayesprune.methods.mean_field import MeanField
from bayesprune.methods.weight import Weight
from bayesprune.patterns import Pattern, Unstructured

__all__ = ["SparseVD"]


@dataclass(frozen=True)
class SparseVD(Method):
    """Sparse variational dropout: a dropout rate of its own for every weight (Molchanov et al. 2017).

    q(w) = N(θ, σ²), additive-noise parametrisation (section 4.1); p(w) ∝ 1/|w| (eq. 8); the KL depends on
    log α = log σ² − log θ² alone (eq. 14) and drives useless weights to α → ∞.

    Args:
        pattern: which entries are pruned together.
        init_log_scale: log σ at the start, when θ is the trained weight.
        clip: σ is held within exp of this range; the paper's code clips log α likewise. The start lies in it.
        exact_kl: take the exact KL instead of the paper's sigmoid fit of it, which is off by up to 0.0094 nat
            and eight times as fast.

    The paper prunes at log α > 3, which is SNR < e^(−3/2) = 0.22.

    >>> SparseVD().snr_threshold
    0.22313016014842982
    """

    pattern: Pattern = Unstructured()  # noqa: RUF009
    init_log_scale: float = -4.0
    clip: tuple[float, float] = (-10.0, 2.0)
    exact_kl: bool = False
    snr_threshold: ClassVar[float | None] = math.exp(-1.5)

    def __post_init__(self) -> None:
        check_start(self, self.init_log_scale, self.clip)

    def posterior(self, weight: Weight) -> Posterior:
        return _SparseVDPosterior(weight, self)


class _SparseVDPosterior(MeanField):
    def __init__(self, weight: Weight, method: SparseVD) -> None:
        super().__init__(weight, method.init_log_scale, method.clip)
        self.method = method

    def prior(self) -> Tensor:
        return self.sample(LogUniform(self.loc.shape, exact=self.method.exact_kl, like=self.loc))
