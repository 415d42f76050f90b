"""Signal-to-noise ratios of groups: histograms, and against the mean."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.network.state import PosteriorState
from bayesprune.plots.masks import mask_of
from bayesprune.plots.style import BLACK, BLUE, ORANGE, axes_for, panels_for
from bayesprune.pruning.masking import check_masks

__all__ = ["Cut", "snr_against_mean", "snr_histograms", "snr_ratios", "used_cuts"]

_NOISE = 1e-3  # a ratio so low says no more than a lower one


@dataclass(frozen=True)
class Cut:
    """Where masks cut a weight's signal-to-noise ratios.

    Attributes:
        snr: the least ratio that is kept.
        words: what that is called: the cut that was used, or, where the masks drop nothing that the fit had left, the
            least that is kept.
    """

    snr: float
    words: str


def used_cuts(state: PosteriorState, masks: Mapping[str, Tensor]) -> dict[str, Cut]:
    """The cut in the signal-to-noise ratios by which masks were made: one for all weights, or one for each.

    A weight whose mask follows another ranking, or keeps nothing, has none.
    """
    ends = {name: _ends(state, name, mask) for name, mask in masks.items()}
    found = {name: (low, high) for name, (low, high) in ends.items() if math.isfinite(low)}
    if not found:
        return {}
    lowest, highest = min(low for low, _ in found.values()), max(high for _, high in ends.values())
    if highest <= lowest:
        return dict.fromkeys(found, _cut(lowest, highest))
    return {name: _cut(low, high) for name, (low, high) in found.items() if high <= low}


def _cut(low: float, high: float) -> Cut:
    return Cut(
        low, f"the cut that was used, SNR ≥ {low:.2g}" if high >= 0 else f"the least that is kept, SNR {low:.2g}"
    )


def _ends(state: PosteriorState, name: str, mask: Tensor) -> tuple[float, float]:
    """The least ratio that is kept, infinite if none is; and the greatest that goes of what the fit had left, −1 if
    nothing does."""
    snr, grid = state.snr[name], state.grids[name]
    stays = grid.pool(mask.to(snr.device).int()) > 0
    goes = grid.kept & ~stays
    low = float(snr[stays].min()) if bool(stays.any()) else math.inf
    return (low if low > 0 else math.inf), float(snr[goes].max()) if bool(goes.any()) else -1.0


def snr_histograms(
    bnet: BayesianNet,
    masks: Mapping[str, Tensor],
    *,
    threshold: float | None = None,
    cut: bool = False,
    axes: Any = None,
    state: PosteriorState | None = None,
) -> np.ndarray:
    """How sure the posterior is of each layer: a histogram of its groups' signal-to-noise ratio, in decades.

    The ratios are those of :meth:`bayesprune.BayesianNet.snr`: weights that are pruned together share theirs.

    Args:
        bnet: the net with its posterior.
        masks: weight name → bool; groups that are kept and groups that are not have different colours.
        threshold: a line to draw; by default the one that the methods' papers prune at, if they agree on one.
        cut: whether to draw the cut by which the masks were made, where it was one in the ratios.
        axes: one matplotlib axes for each mask; by default a new figure.
        state: ``bnet.state()`` where it is at hand; by default it is made here.

    Returns:
        The axes. A group that was pruned while fitting stands at the ratio that it had when it was pruned; one without
        variance, whose ratio is infinite, is left out.

    Raises:
        ValueError: masks that do not fit, or another number of axes.
    """
    check_masks(bnet, masks)
    own = axes is None
    axes = panels_for(axes, len(masks), 3.4, 3.4)
    state = bnet.state() if state is None else state
    parts = {name: snr_ratios(state, name, mask) for name, mask in masks.items()}
    published = {bnet.methods[name].snr_threshold for name in masks}
    if threshold is None and len(published) == 1:
        threshold = published.pop()
    cuts = used_cuts(state, masks) if cut else {}
    highest = max((float(snr.max()) for snr, *_ in parts.values() if snr.size), default=1.0)
    bins = np.linspace(math.log10(_NOISE), max(math.log10(max(highest, _NOISE)), 0.0) + 0.05, 41)
    for axis, (name, (snr, _, kept)) in zip(axes, parts.items(), strict=True):
        decades = np.log10(snr.clip(min=_NOISE))
        stacked = [decades[kept], decades[~kept]]
        axis.hist(stacked, bins=list(bins), stacked=True, color=[BLUE, ORANGE], label=["kept", "not kept"])
        if threshold:
            axis.axvline(math.log10(threshold), color=BLACK, linestyle="--", label=f"threshold {threshold:.2g}")
        if (used := cuts.get(name)) is not None:
            axis.axvline(math.log10(max(used.snr, _NOISE)), color=BLACK, linewidth=2, label=used.words)
        axis.set_yscale("symlog", linthresh=1)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("log₁₀ SNR (first bar: or less)")
        axis.set_title(f"{name}: {int(kept.sum()):,} of {len(kept):,} kept", fontsize="medium")
    axes[0].set_ylabel("groups")
    if own:
        axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    else:
        axes[0].legend(frameon=False, fontsize="small")
    return axes


def snr_against_mean(
    bnet: BayesianNet,
    masks: Mapping[str, Tensor],
    name: str,
    *,
    threshold: float | None = None,
    most: int = 1000,
    ax: Axes | None = None,
) -> Axes:
    """What ranking by SNR changes over ranking by magnitude: SNR of each group against its mean's size.

    Args:
        bnet: the net with its posterior.
        masks: weight name → bool.
        name: the weight to show.
        threshold: a line to draw; by default the one of the method's paper, if it has one.
        most: at most about so many points are drawn of the kept groups and of the others, evenly spread over each.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: masks that do not fit, or a name that is not among them.
    """
    snr, size, kept = snr_ratios(bnet.state(), name, mask_of(bnet, masks, name))
    ax = axes_for(ax)
    for label, part, colour, marker in (("not kept", ~kept, ORANGE, "x"), ("kept", kept, BLUE, "o")):
        shown = part & (snr >= _NOISE)
        step = max(1, math.ceil(shown.sum() / most))
        x, y = size[shown][::step], snr[shown][::step]
        if shown.sum() < part.sum():
            label += f" ({int(part.sum() - shown.sum()):,} under {_NOISE:g} not shown)"
        ax.scatter(x, y, s=9, c=colour, marker=marker, linewidths=0.6, alpha=0.6, label=label)
    threshold = bnet.methods[name].snr_threshold if threshold is None else threshold
    if threshold:
        ax.axhline(threshold, color=BLACK, linestyle="--", label=f"threshold {threshold:.2g}")
    ax.set(xscale="log", yscale="log", ylabel="SNR")
    single = bnet.posteriors[name].kept.shape == masks[name].shape
    ax.set_xlabel("|posterior mean|" if single else "root mean square of the posterior mean in the group")
    ax.set_title(f"{name}: {int(kept.sum()):,} of {len(kept):,} kept", fontsize="medium")
    ax.legend(frameon=False, fontsize="small")
    return ax


def snr_ratios(state: PosteriorState, name: str, mask: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SNR, root mean square of the mean, and whether kept, of each group of one weight with a variance; pruned too."""
    grid, snr = state.grids[name], state.snr_when_pruned[name].double()
    size = (grid.pool(state.unpruned[name][0].square()).double() / grid.sizes()).sqrt()
    kept = grid.pool(mask.to(size.device).int()) > 0
    shown = (state.unpruned_energies[name][1] > 0).flatten().cpu().numpy()
    ratios, root, stays = (x.flatten().cpu().numpy()[shown] for x in (snr, size, kept))
    return ratios, root, stays
