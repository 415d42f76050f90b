"""Per-weight rows of the report: method, pattern, kept fraction, format and speed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.network.state import PosteriorState
from bayesprune.pruning.bit_widths import bit_widths
from bayesprune.sparse import Choice, Plan

__all__ = ["WeightRow", "median_snr", "weight_rows"]


@dataclass(frozen=True)
class WeightRow:
    """One weight of the net.

    Attributes:
        name, shape: the parameter's.
        kept: the fraction of its entries that stays.
        snr: the median signal-to-noise ratio of the groups that stay; NaN if none does.
        bits: how many bits what stays can bear, see :func:`bayesprune.bit_widths`; ``None`` without a posterior.
        method, pattern: what fitted it, and what was pruned together.
        local: whether its activations were sampled in training, rather than the weight.
        choice: how it runs, why, and its bytes.
    """

    name: str
    shape: tuple[int, ...]
    kept: float
    snr: float
    bits: int | None
    method: str
    pattern: str
    local: bool
    choice: Choice

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; an SNR that is no finite number is ``None``."""
        snr = self.snr if math.isfinite(self.snr) else None
        return {**vars(self), "shape": list(self.shape), "snr": snr, "choice": self.choice.to_dict()}


def weight_rows(
    bnet: BayesianNet, masks: Mapping[str, Tensor], plan: Plan, state: PosteriorState
) -> tuple[WeightRow, ...]:
    """A row for each mask, of a net whose state is ``state``."""
    bits = bit_widths(bnet, masks, state=state)
    return tuple(
        WeightRow(
            name=name,
            shape=tuple(mask.shape),
            kept=int(mask.sum()) / max(mask.numel(), 1),
            snr=median_snr(state, name, mask),
            bits=bits[name],
            method=type(bnet.methods[name]).__name__,
            pattern=str(bnet.methods[name].pattern),
            local=name in bnet.sampled_locally,
            choice=plan[name],
        )
        for name, mask in masks.items()
    )


def median_snr(state: PosteriorState, name: str, mask: Tensor) -> float:
    """The median signal-to-noise ratio of the groups of one weight of which the mask keeps something; NaN if none."""
    staying = state.snr[name][state.grids[name].pool(mask.int()) > 0]
    return float(staying.median()) if staying.numel() else math.nan
