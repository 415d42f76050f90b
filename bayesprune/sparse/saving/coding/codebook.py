"""Codebooks: the levels that a tensor's values share."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from bayesprune.sparse.saving.coding.kmeans import levels_for
from bayesprune.sparse.saving.coding.points import in_order, nearest

__all__ = ["Codebook", "Levels", "codebook_of"]

_MOST = 256  # levels that are chosen by the data
_SHARE = 0.05  # of the posterior variance that rounding to levels may add
_FEW = 4  # values a level: below, a value of its own in half precision is as small and nearer

Values = Float64[np.ndarray, " values"]
Entries = Float64[np.ndarray, " entries"]


@dataclass(frozen=True)
class Codebook:
    """How many values the entries of a weight may share in a compressed file.

    Args:
        levels: at most so many values other than 0 in each weight, 2 to 65,536. By default, where variances are known,
            the fewest (up to 256) for which the mean of (rounding error)² / variance is 0.05 or less; where they are
            not, 256 in a convolution and 32 in any other weight, as in Han, Mao & Dally (2016).

    Raises:
        ValueError: ``levels`` is out of range.

    >>> Codebook(levels=16)
    Codebook(levels=16)
    """

    levels: int | None = None

    def __post_init__(self) -> None:
        known = isinstance(self.levels, int) and not isinstance(self.levels, bool)
        if self.levels is not None and not (known and 2 <= self.levels <= 2**16):
            raise ValueError(f"a codebook has 2 to 65,536 levels, or None to let the data choose; got {self.levels!r}")


@dataclass(frozen=True)
class Levels:
    """A codebook that was made: its entries, ascending, and which of them each value takes."""

    entries: Tensor
    which: Int64[np.ndarray, " values"]


def codebook_of(compress: object) -> Codebook | None:
    """What ``compress`` asks for: None is a file that is not compressed.

    Raises:
        ValueError: it is neither a bool nor a :class:`Codebook`.

    >>> codebook_of(True), codebook_of(False)
    (Codebook(levels=None), None)
    """
    if isinstance(compress, bool):
        return Codebook() if compress else None
    if not isinstance(compress, Codebook):
        raise ValueError(f"compress is True, False or bp.Codebook(levels=…), got {compress!r}")
    return compress


def _tensor(entries: Iterable[float], dtype: torch.dtype) -> Tensor:
    return torch.tensor(list(entries), dtype=torch.float64).to(dtype)


def _rounded(levels: Entries, dtype: torch.dtype) -> Float64[np.ndarray, "_"]:
    return np.unique(_tensor(levels, dtype).double().numpy())


def _precisions(variances: Values) -> Values:
    """The weights of the values: one over the variance. Where that is 0, what the least other variance gives."""
    there = variances > np.finfo(np.float64).tiny
    least = variances[there].min() if there.any() else 1.0
    return 1 / np.where(there, variances, least)


def levels_of(
    values: Values, variances: Values | None, dtype: torch.dtype, codebook: Codebook, usual: int
) -> Levels | None:
    """The levels for ``values``; None where there are too few values to share any.

    What has few values already keeps them, so that a net that was loaded is saved as it is. Entries are numbers of
    ``dtype``, and of float16 where that adds next to nothing to the error.

    Args:
        values: none of them 0.
        variances: of their posteriors.
        dtype: of the tensor that they come from.
        codebook: what was asked for.
        usual: how many levels, where neither ``codebook`` nor a posterior tells; 0 for none.
    """
    if not len(values):
        return None
    informed = variances is not None and bool((variances > 0).any())
    points = in_order(values, _precisions(variances) if informed and variances is not None else None)
    if len(points) * _FEW <= len(values) and len(points) <= (codebook.levels or _MOST):
        return Levels(_tensor(points.at, dtype), np.searchsorted(points.at, values))
    by_data = informed and codebook.levels is None
    most, enough = codebook.levels or usual, 0.0
    if by_data:
        most, enough = min(_MOST, len(values) // _FEW), _SHARE * len(values)
    if not (usual or informed) or most < 2 or most * _FEW > len(values):
        return None
    levels = levels_for(points, most, enough)
    error = points.error(levels)
    if by_data and error > enough and most < _MOST:
        return None
    entries = _rounded(levels, torch.float16)
    if not np.isfinite(entries).all() or points.error(entries) > max(1.01 * error, enough):
        entries = _rounded(levels, dtype)
    return Levels(_tensor(entries, dtype), nearest(values, entries))
