"""How good a predictive distribution is: error, log-likelihood, calibration, and where its uncertainty comes from."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["entropy", "error", "expected_calibration_error", "negative_log_likelihood"]


def error(probs: Float[Tensor, "n classes"], y: Int[Tensor, " n"]) -> float:
    """The fraction of wrong classes.

    >>> error(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]))
    0.5
    """
    return float((probs.argmax(-1) != y).double().mean())


def negative_log_likelihood(probs: Float[Tensor, "n classes"], y: Int[Tensor, " n"]) -> float:
    """The mean of −log p(y), nats per example.

    >>> round(negative_log_likelihood(torch.tensor([[0.5, 0.5]]), torch.tensor([1])), 4)
    0.6931
    """
    tiny = torch.finfo(probs.dtype).tiny
    return float(-probs.gather(-1, y[:, None]).clamp_min(tiny).log().double().mean())


def expected_calibration_error(probs: Float[Tensor, "n classes"], y: Int[Tensor, " n"], bins: int = 15) -> float:
    """How far confidence is from accuracy: Σ |bin| / n · |accuracy − confidence| over equal bins of the top
    probability (Guo et al. 2017, eq. 3).

    >>> expected_calibration_error(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    0.5
    """
    confidence, predicted = probs.double().max(-1)
    right = (predicted == y).double()
    # bins are (low, high], as in the paper; 0 itself falls into the first
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64, device=probs.device).index_add_(0, index, right - confidence)
    return float(gap.abs().sum() / len(y))


def entropy(probs: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """−Σ p log p over the last axis, nats."""
    return torch.special.entr(probs).sum(-1)
