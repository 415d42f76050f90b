"""The mean-field Gaussian posterior N(μ, σ²), entry by entry, for methods that differ in their prior alone.

Graves 2011, *Practical Variational Inference for Neural Networks*, NeurIPS 24.
Blundell et al. 2015, *Weight Uncertainty in Neural Networks*, arXiv:1505.05424.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from bayesprune.distributions import LazyNormal
from bayesprune.methods.base import Posterior
from bayesprune.methods.weight import Weight

__all__ = ["MeanField"]


class MeanField(Posterior):
    """q(w) = N(μ, σ²), entry by entry, from the weight itself; subclasses write the prior.

    Args:
        weight: the weight; μ starts at its value.
        init_log_scale: log σ at the start.
        clip: log σ is held in this range.
    """

    lr_multipliers: ClassVar[Mapping[str, float]] = {"log_scale": 10.0}
    per_entry: ClassVar[frozenset[str]] = frozenset({"loc", "log_scale"})

    def __init__(self, weight: Weight, init_log_scale: float, clip: tuple[float, float]) -> None:
        super().__init__(weight)
        self.clip = clip
        self.loc = nn.Parameter(weight.tensor.clone())
        self.log_scale = nn.Parameter(torch.full_like(weight.tensor, init_log_scale))

    def guide(self) -> None:
        self.clamp_("log_scale", *self.clip)
        self.sample(LazyNormal(self.param("loc"), self.param("log_scale").exp()))

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.loc, (2 * self.log_scale).exp()

    def second_moment(self) -> Tensor:
        """E w² = μ² + σ², entry by entry."""
        return self.loc.square() + (2 * self.log_scale).exp()
