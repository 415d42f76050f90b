"""A distribution whose log-probability and KL are weighted entry by entry, as a slab's by its inclusion probability.

Bai, Song & Cheng 2020, *Efficient Variational Inference for Sparse Deep Learning with Theoretical Guarantee*,
arXiv:2011.07439.
"""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import kl_divergence, register_kl

__all__ = ["Weighted"]


class Weighted(dist.TorchDistribution):
    """``base`` with its log-probability times ``factor``, entry by entry; draws are ``base``'s.

    Where a variable exists with some probability only (a slab under a spike), prior and guide agree wherever it does
    not exist, and its KL counts with that probability. ``poutine.scale`` cannot say so within one site.

    Args:
        base: any distribution, entries independent.
        factor: of its batch shape, ≥ 0; the guide's is the one that counts in the KL.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, base: TorchDistributionMixin, factor: Tensor) -> None:
        self.base, self.factor = base, factor
        super().__init__(base.batch_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return bool(self.base.has_rsample)

    @property
    def support(self) -> Any:
        return self.base.support

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "Weighted":
        return Weighted(self.base.expand(batch_shape), self.factor.expand(batch_shape))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.base.rsample(sample_shape)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.base.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.factor * self.base.log_prob(value)


@register_kl(Weighted, Weighted)
def _kl_weighted(q: Weighted, p: Weighted) -> Tensor:
    return q.factor * kl_divergence(q.base, p.base)
