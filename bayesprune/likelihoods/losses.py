"""What a predictive distribution loses on each observation."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["LEVEL", "Losses"]

LEVEL = 0.95  # the probability of the interval that targets should lie in


@dataclass(frozen=True)
class Losses:
    """How a predictive distribution fares on each observation, so that two can be compared on the same ones.

    An observation is what has one answer: a label (of an example, token, pixel, or one of many of an example), else an
    example with all its numbers. Labels that are to be ignored are none.

    Attributes:
        nll: −log p(y), nats, (observations,).
        wrong: whether the label is wrong, (observations,); ``None`` where targets are no labels.
        confidence: the probability of the answer, (observations,); ``None`` where targets are no labels.
        brier: the squared distance of the probabilities from the truth, (observations,); ``None`` for no labels.
        squared: the squared error, averaged over an example's numbers, (observations,); ``None`` for labels.
        inside: whether each number lies in the central 95 % of the predictive, (observations, numbers); ``None`` for
            labels.
        classes: how many classes, or labels an example, there are; 0 where targets are no labels.
        group: which of them each observation is of, (observations,).
        answer: the label that is given, (observations,); ``None`` where an observation is not of one class of several.
        one_answer: the error, or mean squared error, of the best answer that is the same for all examples.
        parts: of several outputs each one's own, by name; ``nll`` is then of all together.
    """

    nll: Tensor
    wrong: Tensor | None = None
    confidence: Tensor | None = None
    brier: Tensor | None = None
    squared: Tensor | None = None
    inside: Tensor | None = None
    classes: int = 0
    group: Tensor | None = None
    answer: Tensor | None = None
    one_answer: float | None = None
    parts: Mapping[str, "Losses"] = field(default_factory=dict)
