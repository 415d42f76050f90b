"""Classification metrics: error, likelihood, calibration, and entropy decomposition.

Probabilities are (examples, classes), labels (examples,); :mod:`bayesprune.evaluation.regression` is for real targets.
"""

from statistics import NormalDist
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor

__all__ = [
    "ClassErrors",
    "EntropySplit",
    "ReliabilityBins",
    "brier_score",
    "calibration_error",
    "class_errors",
    "entropy",
    "entropy_split",
    "error",
    "expected_calibration_error",
    "negative_log_likelihood",
    "reliability_bins",
    "wilson_interval",
]


class ReliabilityBins(NamedTuple):
    """Equal bins of the top probability: how many examples fell into each, their mean top probability and their
    accuracy. Each is (bins,); confidence and accuracy are NaN where a bin is empty.
    """

    n: Tensor
    confidence: Tensor
    accuracy: Tensor


class ClassErrors(NamedTuple):
    """How often each class is missed: its examples, the fraction of them that is wrong, and that fraction's interval.
    Each is (classes,); NaN for a class without examples.
    """

    n: Tensor
    error: Tensor
    low: Tensor
    high: Tensor


class EntropySplit(NamedTuple):
    """The entropy of a prediction in nats, and its parts: total = epistemic + aleatoric."""

    total: Tensor
    epistemic: Tensor
    aleatoric: Tensor


def error(probs: Float[Tensor, "n classes"], y: Integer[Tensor, " n"]) -> float:
    """The fraction of wrong classes.

    >>> error(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]))
    0.5
    """
    return float((probs.argmax(-1) != y.long()).double().mean())


def negative_log_likelihood(probs: Float[Tensor, "n classes"], y: Integer[Tensor, " n"]) -> float:
    """The mean of −log p(y), nats per example.

    >>> round(negative_log_likelihood(torch.tensor([[0.5, 0.5]]), torch.tensor([1])), 4)
    0.6931
    """
    tiny = torch.finfo(probs.dtype).tiny
    return float(-probs.gather(-1, y.long()[:, None]).clamp_min(tiny).log().double().mean())


def brier_score(probs: Float[Tensor, "n classes"], y: Integer[Tensor, " n"]) -> float:
    """The Brier score: the mean over examples of Σ (p − [class is y])² over classes, in [0, 2].

    Brier 1950, *Verification of Forecasts Expressed in Terms of Probability*, Monthly Weather Review 78.

    >>> brier_score(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 1]))
    1.25
    """
    probs = probs.double()
    hit = probs.gather(-1, y.long()[:, None]).squeeze(-1)
    return float((probs.square().sum(-1) - 2 * hit + 1).mean())


def reliability_bins(probs: Float[Tensor, "n classes"], y: Integer[Tensor, " n"], bins: int = 15) -> ReliabilityBins:
    """The reliability diagram: accuracy beside confidence, over equal bins of the top probability.

    Guo et al. 2017, *On Calibration of Modern Neural Networks*, arXiv:1706.04599, section 2.

    >>> reliability_bins(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]), bins=2).accuracy
    tensor([   nan, 0.5000], dtype=torch.float64)
    """
    confidence, predicted = probs.double().max(-1)
    return _binned(confidence, predicted == y.long(), bins)


def expected_calibration_error(probs: Float[Tensor, "n classes"], y: Integer[Tensor, " n"], bins: int = 15) -> float:
    """The expected calibration error: Σ |bin| / n · |accuracy − confidence| over equal bins of the top probability.

    Guo et al. 2017, *On Calibration of Modern Neural Networks*, arXiv:1706.04599.

    >>> expected_calibration_error(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    0.5
    """
    confidence, predicted = probs.double().max(-1)
    return calibration_error(confidence, predicted == y.long(), bins)


def calibration_error(confidence: Float[Tensor, " n"], right: Bool[Tensor, " n"], bins: int = 15) -> float:
    """:func:`expected_calibration_error` of answers by their probability and whether they are right."""
    count, claimed, accuracy = _binned(confidence.double(), right, bins)
    gap = (accuracy - claimed).abs() * count / len(right)
    return float(gap[count > 0].sum())


def _binned(confidence: Tensor, right: Tensor, bins: int) -> ReliabilityBins:
    # bins are (low, high], as in the paper; 0 itself falls into the first
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count = torch.bincount(index, minlength=bins)

    def mean(x: Tensor) -> Tensor:
        return torch.zeros(bins, dtype=torch.float64, device=x.device).index_add_(0, index, x) / count

    return ReliabilityBins(count, mean(confidence), mean(right.double()))


def class_errors(probs: Float[Tensor, "n classes"], y: Integer[Tensor, " n"], level: float = 0.95) -> ClassErrors:
    """The error of each class, with Wilson's interval: pruning's harm falls on few classes.

    Hooker et al. 2019, *What Do Compressed Deep Neural Networks Forget?*, arXiv:1911.05248.

    Args:
        level: how sure the interval is, in (0, 1).

    >>> class_errors(torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]), torch.tensor([0, 0, 1])).error
    tensor([0., 1.], dtype=torch.float64)
    """
    classes, y = probs.shape[-1], y.long()
    count = torch.bincount(y, minlength=classes)
    wrong = torch.bincount(y[probs.argmax(-1) != y], minlength=classes)
    return ClassErrors(count, wrong.double() / count, *wilson_interval(wrong, count, level))


def wilson_interval(k: Shaped[Tensor, "..."], n: Shaped[Tensor, "..."], level: float = 0.95) -> tuple[Tensor, Tensor]:
    """The interval of a binomial fraction, ``k`` of ``n`` (Wilson 1927): low and high, NaN where ``n`` is 0.

    Raises:
        ValueError: ``level`` outside (0, 1).

    >>> [round(float(end), 3) for end in wilson_interval(torch.tensor(0), torch.tensor(10))]
    [0.0, 0.278]
    """
    if not 0 < level < 1:
        raise ValueError(f"level is how sure the interval is, in (0, 1), got {level!r}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    n = n.double()
    p = k.double() / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)).sqrt()
    # at k = 0 and k = n the ends are exactly 0 and 1
    return torch.where(k == 0, 0 * p, middle - half), torch.where(k == n, 0 * p + 1, middle + half)


def entropy(probs: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """−Σ p log p over the last axis, nats."""
    return torch.special.entr(probs).sum(-1)


def entropy_split(probs: Float[Tensor, "draws *batch classes"]) -> EntropySplit:
    """Predictive entropy split into its aleatoric and epistemic parts, each (…) in nats.

    Depeweg et al. 2018, *Decomposition of Uncertainty in Bayesian Deep Learning for Efficient and Risk-Sensitive
    Learning*, arXiv:1710.07283.

    total: the entropy of the mean over draws. aleatoric: the mean of the draws' entropies, what is left if the weights
    were known. epistemic: the rest, the mutual information of label and weights, which more data would settle.

    >>> split = entropy_split(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))  # two sure draws that disagree
    >>> [round(float(part), 4) for part in split]
    [0.6931, 0.6931, 0.0]
    """
    total, aleatoric = entropy(probs.mean(0)), entropy(probs).mean(0)
    return EntropySplit(total, (total - aleatoric).clamp_min(0), aleatoric)
