"""Masks as images: kept fractions per layer, and entry by entry."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from torch import Tensor

from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.plots.style import BLUE, GREY, axes_for
from bayesprune.pruning.masking import check_masks

__all__ = ["kept_fractions", "mask_image", "mask_of", "receptive_field"]

_LINED = 64  # the most rows or columns at which the lines between groups can be told apart


def mask_image(
    bnet: BayesianNet,
    masks: Mapping[str, Tensor],
    name: str,
    *,
    outputs: slice = slice(None),
    inputs: slice = slice(None),
    ax: Axes | None = None,
) -> Axes:
    """A mask as an image, outputs down and inputs across; with lines between groups where they can be told apart.

    A convolution's inputs stand beside each other with their kernel positions together; its groups follow down.

    Args:
        bnet: the net, whose pattern says what the groups are.
        masks: weight name → bool.
        name: the weight to show.
        outputs, inputs: the part to show, as rows and columns of the picture; in a part of at most 64 × 64, groups
            are outlined.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: masks that do not fit, a name that is not among them, or a part that is empty.
    """
    mask = mask_of(bnet, masks, name)
    p = bnet.posteriors[name]
    groups, out, into, positions = p.layout.roles
    grid = torch.arange(int(np.prod(p.kept.shape))).reshape(p.kept.shape)
    whole = p.layout.matrix(p.pattern.expand(grid, p.layout)).reshape(groups * out, into * positions)
    image = p.layout.matrix(mask.cpu()).reshape(groups * out, into * positions)
    rows, columns = range(groups * out)[outputs], range(into * positions)[inputs]
    shown, ids = image[rows][:, columns].numpy(), whole[rows][:, columns].numpy()
    if not shown.size:
        raise ValueError(f"the part is empty: {name!r} is an image of {groups * out} × {into * positions}")
    ax = axes_for(ax, 6.0, 3.6)
    extent = (columns[0] - 0.5, columns[-1] + 0.5, rows[-1] + 0.5, rows[0] - 0.5)
    ax.imshow(shown, cmap=ListedColormap(["white", BLUE]), vmin=0, vmax=1, extent=extent, aspect="auto")
    if max(shown.shape) <= _LINED:
        across = ids[1:] != ids[:-1], rows[1:], columns[0]
        upright = (ids[:, 1:] != ids[:, :-1]).T, columns[1:], rows[0]
        lines = [((start, y), (end, y)) for y, start, end in _edges(*across)]
        lines += [((x, start), (x, end)) for x, start, end in _edges(*upright)]
        ax.add_collection(LineCollection(lines, colors=GREY, linewidths=0.5))
    ax.spines[["top", "right"]].set_visible(True)
    ax.set_xlabel("input" if positions == 1 else f"input × {positions} kernel positions")
    ax.set_ylabel("output")
    ax.set_title(f"{name}, {p.pattern}: {shown.mean():.1%} kept", fontsize="medium")
    return ax


def kept_fractions(masks: Mapping[str, Tensor], *, ax: Axes | None = None) -> Axes:
    """How much of each layer is kept: a bar a weight, in per cent of its entries.

    Args:
        masks: weight name → bool.
        ax: where to draw; by default a new figure.
    """
    ax = axes_for(ax, 5.6, 0.8 + 0.4 * len(masks))
    kept = [int(mask.sum()) for mask in masks.values()]
    sizes = [mask.numel() for mask in masks.values()]
    bars = ax.barh(list(masks), [100 * k / max(n, 1) for k, n in zip(kept, sizes, strict=True)], color=BLUE)
    texts = [f"{k:,} of {n:,}" for k, n in zip(kept, sizes, strict=True)]
    ax.bar_label(bars, texts, padding=4, fontsize="small")
    ax.invert_yaxis()
    ax.set_xlim(0, 135)  # room for what is written beside a full bar
    ax.set_xticks(range(0, 101, 20))
    ax.set_xlabel("entries kept, %")
    ax.set_title(f"{sum(kept):,} of {sum(sizes):,} kept", fontsize="medium")
    return ax


def receptive_field(mask: Tensor, shape: tuple[int, int], *, ax: Axes | None = None) -> Axes:
    """Which pixels a net still looks at: how many weights of its first layer each pixel keeps.

    Args:
        mask: the mask of a linear layer on flattened images, (outputs, height · width) or with several channels,
            (outputs, channels · height · width).
        shape: height and width of the images.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: the layer's inputs are not such images.
    """
    height, width = shape
    if mask.dim() != 2 or mask.shape[1] % (height * width):
        raise ValueError(f"expected a mask (outputs, channels · {height} · {width}), got shape {tuple(mask.shape)}")
    counts = mask.sum(0).reshape(-1, height, width).sum(0).cpu().numpy()
    ax = axes_for(ax, 4.4, 3.6)
    image = ax.imshow(counts, cmap="cividis", vmin=0)
    ax.figure.colorbar(image, ax=ax, label="weights kept")
    ax.set(xlabel="column, pixels", ylabel="row, pixels")
    ax.set_title(f"{int((counts > 0).sum()):,} of {counts.size:,} pixels are looked at", fontsize="medium")
    return ax


def mask_of(bnet: BayesianNet, masks: Mapping[str, Tensor], name: str) -> Tensor:
    """One of the masks; raises ``ValueError`` where it is not among them or does not fit the net."""
    if name not in masks:
        raise ValueError(f"no mask of {name!r} was given; there are {', '.join(masks) or 'none'}")
    check_masks(bnet, {name: masks[name]})
    return masks[name]


def _edges(differ: np.ndarray, after: range, first: int) -> Iterator[tuple[float, float, float]]:
    """Where a line lies, starts and ends, for each run of cells that differ from those in the line before."""
    for line, place in zip(differ.astype(int), after, strict=True):
        steps = np.diff(line, prepend=0, append=0)
        starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
        for start, end in zip(starts, ends, strict=True):
            yield place - 0.5, start + first - 0.5, end + first - 0.5
