"""Score one model on one data set: error, likelihood and calibration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from bayesprune.evaluation.classification import calibration_error
from bayesprune.likelihoods import Likelihood
from bayesprune.likelihoods.losses import Losses

__all__ = ["Losses", "Score", "losses", "score", "standard_error"]


@dataclass(frozen=True)
class Score:
    """Error, likelihood and calibration of a predictive distribution on a data set.

    An observation is a label (of an example, token, pixel, or one of many of an example), else an example. What a
    likelihood has no figure for is ``None``.

    Attributes:
        n: how many observations.
        error: the fraction of wrong labels.
        rmse: the root mean squared error of numbers, in the target's units.
        nll: −log p(y), nats per observation.
        ece: expected calibration error over 15 bins, of labels.
        brier: the Brier score, of labels.
        class_errors: the fraction of each class that is wrong, NaN where it has no example; of several labels an
            example, that of each label.
        coverage: the fraction of numbers inside the central 95 % of the predictive.
        parts: of several outputs the figures of each, by name; ``nll`` is then of all together.
    """

    n: int
    error: float | None
    rmse: float | None
    nll: float
    ece: float | None
    brier: float | None = None
    class_errors: tuple[float, ...] | None = None
    coverage: float | None = None
    parts: Mapping[str, "Score"] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON, which has no NaN. What does not apply is left out."""
        plain = {name: value for name, value in vars(self).items() if value is not None and name != "parts"}
        if self.class_errors is not None:
            plain["class_errors"] = [None if math.isnan(e) else e for e in self.class_errors]
        return plain | ({"parts": {name: part.to_dict() for name, part in self.parts.items()}} if self.parts else {})

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Score":
        """What :meth:`to_dict` gave, again; what else there is in it is passed over.

        >>> Score.from_dict({"n": 4, "nll": 0.1, "class_errors": [0.5, None]}).class_errors
        (0.5, nan)
        """
        own: dict[str, Any] = {"error": None, "rmse": None, "ece": None}
        own |= {field.name: plain[field.name] for field in fields(cls) if field.name in plain}
        if own.get("class_errors") is not None:
            own["class_errors"] = tuple(math.nan if e is None else e for e in plain["class_errors"])
        own["parts"] = {name: cls.from_dict(part) for name, part in plain.get("parts", {}).items()}
        return cls(**own)


def score(observation: Likelihood | None, outputs: Any, y: Any) -> Score:
    """Score the mixture of one or more draws.

    Args:
        observation: what the net's output means.
        outputs: what it reads of the net's outputs, (draws, examples, …).
        y: labels or targets, (examples, …).

    Raises:
        ValueError: no targets, or an unknown observation.

    >>> import torch
    >>> from bayesprune.likelihoods import Categorical
    >>> logits = torch.tensor([[[4.0, 0.0], [4.0, 0.0]]])
    >>> score(Categorical(), logits, torch.tensor([0, 1])).error
    0.5
    """
    if observation is None:
        raise ValueError(
            "what the net's output means is not known: make a model with bp.classify or bp.regress first, or with "
            "bp.supervise for other targets"
        )
    return summary(losses(observation, outputs, y))


@torch.no_grad()
def losses(observation: Likelihood, outputs: Any, y: Any) -> Losses:
    """What :func:`score` averages, observation by observation, for outputs and targets that it takes.

    >>> from bayesprune.likelihoods import Categorical
    >>> outputs = torch.tensor([[[4.0, 0.0], [4.0, 0.0]]])
    >>> losses(Categorical(), outputs, torch.tensor([0, 1])).wrong
    tensor([False,  True])
    """
    return observation.losses(tree_map(double, outputs), y)


def summary(each: Losses) -> Score:
    """The averages over the observations."""
    labels = each.wrong is not None and each.confidence is not None
    return Score(
        n=len(each.nll),
        error=_mean(each.wrong),
        rmse=None if each.squared is None else math.sqrt(each.squared.double().mean()),
        nll=float(each.nll.mean()),
        ece=calibration_error(each.confidence, ~each.wrong) if labels else None,  # type: ignore[operator, arg-type]
        brier=_mean(each.brier),
        class_errors=_by_class(each),
        coverage=_mean(each.inside),
        parts={name: summary(part) for name, part in each.parts.items()},
    )


def double(part: Any) -> Any:
    """A tensor in float64, and what is none as it is."""
    return part.double() if isinstance(part, Tensor) and part.is_floating_point() else part


def standard_error(fraction: float, n: int) -> float:
    """The standard error of a fraction of n examples, a binomial's."""
    return math.sqrt(max(fraction * (1 - fraction), 0.0) / n)


def _mean(each: Tensor | None) -> float | None:
    return None if each is None else float(each.double().mean())


def _by_class(each: Losses) -> tuple[float, ...] | None:
    if each.group is None or each.wrong is None:
        return None
    count = each.group.bincount(minlength=each.classes)
    wrong = each.group[each.wrong].bincount(minlength=each.classes)
    return tuple((wrong.double() / count).tolist())
