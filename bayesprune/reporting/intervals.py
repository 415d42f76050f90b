"""Paired comparison of two models on the same examples: differences with confidence intervals."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import binomtest, bootstrap
from torch import Tensor

__all__ = ["LEVEL", "Change", "mcnemar", "paired_errors", "paired_means"]

LEVEL = 0.95
_RESAMPLES = 2000
_AT_ONCE = 4_000_000  # examples drawn at a time: about 100 MB


@dataclass(frozen=True)
class Change:
    """A figure of two models on the same examples.

    Attributes:
        before, after: the figure of the one and of the other.
        low, high: the 95 % interval of after − before; NaN where the examples are too few for one.
        how: how the interval was made.
        p: the probability of so large a difference by chance, if there is none; ``None`` where not computed.
    """

    before: float
    after: float
    low: float
    high: float
    how: str
    p: float | None = None

    @property
    def difference(self) -> float:
        """After − before."""
        return self.after - self.before

    @property
    def direction(self) -> int:
        """1 if it rose, −1 if it fell, 0 if the interval holds 0."""
        return (self.low > 0) - (self.high < 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        ends = {end: None if math.isnan(x) else x for end, x in (("low", self.low), ("high", self.high))}
        return {**vars(self), **ends, "difference": self.difference}


def mcnemar(before: Bool[Tensor, " n"], after: Bool[Tensor, " n"]) -> float:
    """The exact p-value of McNemar's test (1947), two-sided: are as many examples lost as won?

    >>> import torch
    >>> mcnemar(torch.tensor([False] * 6), torch.tensor([True] * 6))  # 2 / 2⁶
    0.03125
    """
    lost, won = int((after & ~before).sum()), int((before & ~after).sum())
    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def paired_errors(before: Bool[Tensor, " n"], after: Bool[Tensor, " n"]) -> Change:
    """Two error rates on the same examples: the Wald interval after half an example is added to each of the four cells,
    wrong or right by either (Agresti & Min 2005, "Wald+2"), cut at ±1; p by :func:`mcnemar`.

    Args:
        before, after: whether each example is wrong.

    >>> import torch
    >>> change = paired_errors(torch.zeros(100, dtype=torch.bool), torch.arange(100) < 5)
    >>> change.difference, round(change.low, 4), round(change.high, 4)
    (0.05, 0.0029, 0.0951)
    """
    n = len(before)
    lost, won = int((after & ~before).sum()), int((before & ~after).sum())
    middle = (lost - won) / (n + 2)
    spread = math.sqrt((lost + won + 1) - (lost - won) ** 2 / (n + 2)) / (n + 2)
    half = NormalDist().inv_cdf(0.5 + LEVEL / 2) * spread
    rates = float(before.double().mean()), float(after.double().mean())
    how = "paired, Agresti & Min 2005"
    return Change(*rates, max(middle - half, -1.0), min(middle + half, 1.0), how, mcnemar(before, after))


def paired_means(before: Float[Tensor, " n"], after: Float[Tensor, " n"], *, root: bool = False) -> Change:
    """Two means over the same examples, or the roots of them: the percentile interval of 2,000 paired bootstrap
    resamples with a fixed seed (Efron & Tibshirani 1993, chapter 13).

    >>> import torch
    >>> change = paired_means(torch.zeros(50), torch.ones(50))
    >>> change.low, change.high
    (1.0, 1.0)
    """
    a, b = (x.double().cpu().numpy() for x in (before, after))

    def figure(x: np.ndarray, axis: int = -1) -> Any:
        return np.sqrt(x.mean(axis)) if root else x.mean(axis)

    low = high = math.nan
    if len(a) > 1:
        found = bootstrap(
            (a, b),
            lambda x, y, axis: figure(y, axis) - figure(x, axis),
            paired=True,
            vectorized=True,
            n_resamples=_RESAMPLES,
            batch=max(1, _AT_ONCE // len(a)),
            confidence_level=LEVEL,
            method="percentile",
            random_state=np.random.default_rng(0),
        )
        low, high = (float(end) for end in found.confidence_interval)
    return Change(float(figure(a)), float(figure(b)), low, high, f"paired bootstrap, {_RESAMPLES:,} resamples")
