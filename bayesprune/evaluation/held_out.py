"""The expected log predictive density on held-out data: the score by which posteriors of one data set are compared."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesprune.evaluation.prediction import draw_outputs, known_observation
from bayesprune.evaluation.scoring import losses
from bayesprune.fitting.generators import seeded
from bayesprune.fitting.given import batches_of, net_of
from bayesprune.fitting.supervised import SupervisedModel
from bayesprune.network.bayesian_net import BayesianNet

__all__ = ["Elpd", "elpd"]


@dataclass(frozen=True, repr=False)
class Elpd:
    """What :func:`elpd` found.

    Attributes:
        pointwise: log p(y) of each observation under the mean of the draws, nats, (observations,).
    """

    pointwise: Tensor

    @property
    def n(self) -> int:
        """How many observations."""
        return len(self.pointwise)

    @property
    def elpd(self) -> float:
        """The sum over observations, nats: higher is better."""
        return float(self.pointwise.sum())

    @property
    def se(self) -> float:
        """The standard error of :attr:`elpd`, by the spread over observations."""
        return math.sqrt(self.n * float(self.pointwise.var())) if self.n > 1 else math.nan

    def __sub__(self, other: "Elpd") -> "Elpd":
        """By how much this is better than another on the same observations, paired: ``(a - b).elpd``, ``(a - b).se``.

        Raises:
            ValueError: they have not as many.
        """
        if self.n != other.n:
            raise ValueError(f"elpds are compared on the same observations, got {self.n} and {other.n}")
        return Elpd(self.pointwise - other.pointwise)

    def __repr__(self) -> str:
        return f"Elpd({self.elpd:.1f} ± {self.se:.1f} nats over {self.n} observations, {self.elpd / self.n:.4g} each)"


@torch.no_grad()
def elpd(
    bnet: BayesianNet | SupervisedModel,
    data: Any,
    *,
    draws: int = 100,
    masks: Mapping[str, Tensor] | None = None,
    seed: int | None = None,
) -> Elpd:
    """The expected log pointwise predictive density on data that the fit has not seen: Σ log mean over draws of p(y|w).

    Held-out data need no importance weights, unlike :func:`bayesprune.loo`, and are right however far q is from the
    posterior. Vehtari, Gelman & Gabry 2017, *Practical Bayesian Model Evaluation Using Leave-One-Out Cross-Validation
    and WAIC*, arXiv:1507.04544.

    Args:
        bnet: the net with its posterior, or a model over it.
        data: a loader in a fixed order, a ``Dataset``, or one batch ``(x, y)``; not the training data.
        draws: how many draws of the weights.
        masks: weight name → bool; what they drop is 0 in every draw.
        seed: fixes the draws, and leaves the global generator as it was.

    Raises:
        TypeError: no net with a posterior, or no data.
        ValueError: no likelihood yet, no targets, draws < 1, masks that do not fit, or a loader whose order changes.

    >>> from bayesprune.fitting.supervised import classify
    >>> from bayesprune.methods import SparseVD
    >>> bnet = BayesianNet(torch.nn.Sequential(torch.nn.Linear(4, 2)), {"0.weight": SparseVD()})
    >>> model = classify(bnet)
    >>> elpd(bnet, (torch.zeros(5, 4), torch.zeros(5).long()), draws=3).n
    5
    """
    if draws < 1:
        raise ValueError(f"draws is an integer ≥ 1, got {draws}")
    bnet = net_of(bnet)
    observation = known_observation(bnet)
    with seeded(seed):
        outputs, targets = draw_outputs(bnet, batches_of(data, scored=True), draws, masks or {})
    return Elpd(-losses(observation, outputs, targets).nll)
