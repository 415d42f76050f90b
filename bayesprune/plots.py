"""Pictures; matplotlib axes in, matplotlib axes out. Nothing else in the library imports this file."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from bayesprune.network import BayesianNet

__all__ = ["snr_histograms"]

_KEPT, _PRUNED, _LINE = "#0072B2", "#E69F00", "#000000"  # Okabe & Ito: told apart by every kind of colour vision


def snr_histograms(
    bnet: BayesianNet, masks: Mapping[str, Tensor], *, threshold: float | None = None, axes: Any = None
) -> Figure:
    """How sure the posterior is of each layer: a histogram of its groups' signal-to-noise ratio, in decades.

    Args:
        bnet: the net with its posterior.
        masks: weight name → bool; groups that are kept and groups that are not have different colours.
        threshold: a line to draw; by default the one that the methods' papers prune at, if they agree on one.
        axes: one matplotlib axes for each mask; by default a new figure.

    Returns:
        The figure. A group that was pruned while fitting stands at the ratio that it had when it was pruned.
    """
    own = axes is None
    if own:
        axes = Figure(figsize=(3.4 * len(masks), 3.2), layout="constrained").subplots(1, len(masks), squeeze=False)[0]
    axes = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
    if len(axes) != len(masks):
        raise ValueError(f"{len(masks)} weights need as many axes, got {len(axes)}")
    parts = {name: _ratios(bnet, name, mask) for name, mask in masks.items()}
    published = {bnet.methods[name].snr_threshold for name in masks}
    if threshold is None and len(published) == 1:
        threshold = published.pop()
    every = np.concatenate([values for values, _ in parts.values()])
    low, high = (float(every.min()), float(every.max())) if every.size else (-1.0, 1.0)
    bins = np.linspace(low - 0.05, high + 0.05, 41)
    for axis, (name, (values, kept)) in zip(axes, parts.items(), strict=True):
        colours = {"kept": (values[kept], _KEPT), "not kept": (values[~kept], _PRUNED)}
        for label, (ratios, colour) in colours.items():
            axis.hist(ratios, bins=list(bins), color=colour, label=label, alpha=0.75)
        if threshold:
            axis.axvline(math.log10(threshold), color=_LINE, linestyle="--", label=f"threshold {threshold:.2g}")
        axis.set_yscale("symlog", linthresh=1)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("log₁₀ SNR")
        axis.set_title(f"{name}: {int(kept.sum()):,} of {len(kept):,} kept", fontsize="medium")
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].set_ylabel("groups")
    if own:
        handles, labels = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    else:
        axes[0].legend(frameon=False, fontsize="small")
    return axes[0].figure


def _ratios(bnet: BayesianNet, name: str, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """log₁₀ SNR of each group of one weight, pruned ones too, and which are kept."""
    p = bnet.posteriors[name]
    mean, var = (m.detach() for m in p.moments())
    snr = (p.pattern.pool(mean.square(), p.layout) / p.pattern.pool(var, p.layout)).sqrt().flatten()
    kept = (p.pattern.pool(mask.int(), p.layout) > 0).flatten()
    shown = (snr > 0) & snr.isfinite()
    return snr[shown].double().log10().cpu().numpy(), kept[shown].cpu().numpy()
