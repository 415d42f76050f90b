"""Multi-label: several labels an example, each there or not."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from bayesprune.likelihoods.base import Likelihood, mixture, one_for_each, one_tensor
from bayesprune.likelihoods.losses import Losses

__all__ = ["Bernoulli"]


class Bernoulli(Likelihood):
    """Labels that are there or not, independently: the net's output holds a logit for each.

    Targets have the output's shape: 0 and 1 of any type, or probabilities. ``torch.nn.BCEWithLogitsLoss``, summed over
    an example's labels.

    Args:
        pos_weight: a factor on the loss where a label is there, (labels,) or one number; in the fit alone.
        ignore_index: what stands where it is not known: it counts for nothing.

    >>> Bernoulli().log_prob(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, -100.0]]))
    tensor([-1.3863])
    """

    pos_weight: Tensor | None

    def __init__(self, *, pos_weight: Tensor | Sequence[float] | float | None = None, ignore_index: int = -100) -> None:
        super().__init__()
        if pos_weight is not None:
            pos_weight = torch.as_tensor(pos_weight, dtype=torch.float32)
            if not bool((pos_weight > 0).all()) or not bool(torch.isfinite(pos_weight).all()):
                raise ValueError(f"pos_weight holds numbers > 0, got {pos_weight}")
        self.register_buffer("pos_weight", pos_weight)
        self.ignore_index = ignore_index

    def extra_repr(self) -> str:
        weight = None if self.pos_weight is None else self.pos_weight.tolist()
        return f"pos_weight={weight}, ignore_index={self.ignore_index}"

    def take(self, output: Any) -> Tensor:
        return one_tensor(output)

    def check(self, output: Tensor, y: Any) -> Tensor:
        y = one_for_each(y, tuple(output.shape), "labels", "logit")
        y = y.to(output.dtype)
        known = y != self.ignore_index
        if not bool(((y >= 0) & (y <= 1) | ~known).all()):
            raise ValueError(f"labels must lie in [0, 1], or be ignore_index={self.ignore_index}")
        return y

    def distribution(self, output: Tensor) -> TorchDistributionMixin:
        return dist.Bernoulli(logits=output, validate_args=False).to_event(output.dim() - 1)

    def observe(self, site: str, output: Tensor, y: Tensor | None) -> None:
        if y is None or (self.pos_weight is None and bool(((y == 0) | (y == 1)).all())):
            super().observe(site, output, y)
        else:
            pyro.factor(site, -self._cross_entropy(output, y, self.pos_weight))

    def log_prob(self, output: Tensor, y: Tensor) -> Tensor:
        return -self._cross_entropy(output, y)

    def _cross_entropy(self, output: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        known = y != self.ignore_index
        found = F.binary_cross_entropy_with_logits(
            output,
            torch.where(known, y, 0.0),
            pos_weight=None if weight is None else weight.to(output),
            reduction="none",
        )
        return torch.where(known, found, 0.0).reshape(len(output), -1).sum(-1)

    def mean(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    def uncertainty(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mutual information of each label and the weights, and its mean entropy over draws, nats, of y's shape."""
        p = outputs.sigmoid()
        total, left = (torch.special.entr(q) + torch.special.entr(1 - q) for q in (p.mean(0), p))
        return (total - left.mean(0)).clamp_min(0), left.mean(0)

    def losses(self, outputs: Tensor, y: Any) -> Losses:
        y = self.check(outputs[0], y)
        known = y != self.ignore_index
        there, gone = (mixture(F.logsigmoid(sign * outputs))[known] for sign in (1, -1))
        labels = y.shape[1] if y.dim() == 2 else 1  # other axes are places
        which = (torch.arange(labels, device=y.device) if labels > 1 else torch.zeros_like(y).long()).expand(y.shape)[
            known
        ]
        y, p = y[known], there.exp()
        if not len(y):
            raise ValueError(f"there is nothing to score: every label is ignore_index={self.ignore_index}")
        count, ones = which.bincount(minlength=labels), which.bincount(y, minlength=labels)
        return Losses(
            nll=-(y * there + (1 - y) * gone),
            wrong=(p > 0.5) != (y > 0.5),
            confidence=torch.maximum(p, 1 - p),
            brier=(p - y).square(),
            classes=labels if labels > 1 else 0,
            group=which if labels > 1 else None,
            one_answer=float(torch.minimum(ones, count - ones).sum() / count.sum()),
        )

    def no_density(self, y: Any) -> str | None:
        if self.pos_weight is not None:
            return "pos_weight makes no density of labels"
        if y is not None and not bool(((y == 0) | (y == 1) | (y == self.ignore_index)).all()):
            return "soft labels are no draws of labels"
        return None
