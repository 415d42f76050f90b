"""A point mass instead of a posterior: ordinary training, the baseline of every method.

Gradual magnitude pruning:
Zhu & Gupta 2017, *To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model Compression*,
arXiv:1710.01878.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bayesprune.methods.base import Method, Posterior
from bayesprune.methods.weight import Weight
from bayesprune.patterns import Pattern, Unstructured

__all__ = ["Deterministic"]


@dataclass(frozen=True)
class Deterministic(Method):
    """A point mass: the weight is trained as usual, its variance is 0, it has no sample site and no KL.

    With ``Cubic(keep=…, saliency=magnitude)`` it is gradual magnitude pruning (Zhu & Gupta 2017) in the same loop, on
    the same batches and epochs as any posterior.

    Args:
        pattern: which entries are pruned together.
    """

    pattern: Pattern = Unstructured()  # noqa: RUF009

    def posterior(self, weight: Weight) -> Posterior:
        return _DeterministicPosterior(weight)


class _DeterministicPosterior(Posterior):
    per_entry: ClassVar[frozenset[str]] = frozenset({"loc"})

    def __init__(self, weight: Weight) -> None:
        super().__init__(weight)
        self.loc = nn.Parameter(weight.tensor.clone())

    def prior(self) -> Tensor:
        return self.param("loc")

    def guide(self) -> None:
        self.param("loc")

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.loc, torch.zeros_like(self.loc)
