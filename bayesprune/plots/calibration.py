"""Reliability diagrams and per-class errors, before and after pruning."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from bayesprune.evaluation import classification as metrics
from bayesprune.plots.style import BLACK, COLOURS, MARKERS, axes_for

__all__ = ["class_errors", "reliability"]


def reliability(predictions: Mapping[str, Tensor], y: Tensor, *, bins: int = 15, ax: Axes | None = None) -> Axes:
    """Accuracy against confidence, in equal bins of the top probability; on the diagonal a net is calibrated.

    A marker's area grows with its bin's share of the examples.

    Args:
        predictions: name ("before", "after") → class probabilities (examples, classes).
        y: labels (examples,).
        bins: how many.
        ax: where to draw; by default a new figure.
    """
    ax = axes_for(ax, 4.4, 4.0)
    ax.plot([0, 1], [0, 1], color=BLACK, linestyle="--", linewidth=1, label="calibrated")
    for k, (name, probs) in enumerate(predictions.items()):
        count, confidence, accuracy = (part.cpu().numpy() for part in metrics.reliability_bins(probs, y, bins))
        filled = count > 0
        colour = COLOURS[k % len(COLOURS)]
        label = f"{name}: ECE {metrics.expected_calibration_error(probs, y, bins):.3f}"
        ax.plot(confidence[filled], accuracy[filled], color=colour, linewidth=1)
        area = 15 + 120 * count[filled] / count.sum()
        marker = MARKERS[k % len(MARKERS)]
        ax.scatter(confidence[filled], accuracy[filled], s=area, color=colour, marker=marker, alpha=0.8, label=label)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence (top probability)", ylabel="accuracy")
    ax.legend(frameon=False, fontsize="small")
    return ax


def class_errors(
    predictions: Mapping[str, Tensor],
    y: Tensor,
    *,
    classes: Sequence[str] | None = None,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """The error of each class, with Wilson's interval: whom did pruning harm?

    Args:
        predictions: name ("before", "after") → class probabilities (examples, classes).
        y: labels (examples,).
        classes: the classes' names; by default their numbers.
        level: how sure the interval is, in (0, 1).
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: another number of names than of classes.
    """
    n = next(iter(predictions.values())).shape[-1]
    names = [str(k) for k in range(n)] if classes is None else list(classes)
    if len(names) != n:
        raise ValueError(f"{n} classes need as many names, got {len(names)}")
    ax = axes_for(ax, max(5.6, 0.5 * n + 1), 3.4)
    width = 0.8 / len(predictions)
    for k, (name, probs) in enumerate(predictions.items()):
        _, error, low, high = (100 * part.cpu().numpy() for part in metrics.class_errors(probs, y, level))
        place = np.arange(n) + (k - (len(predictions) - 1) / 2) * width
        overall = f"{name}: {metrics.error(probs, y):.2%} overall"
        ax.bar(place, error, width, color=COLOURS[k % len(COLOURS)], label=overall)
        ax.errorbar(place, error, [error - low, high - error], fmt="none", ecolor=BLACK, elinewidth=1, capsize=2)
    ax.set_xticks(range(n), names, rotation=45 if max(map(len, names)) > 4 else 0)
    ax.set(xlabel="class", ylabel=f"error, % (with {level:.0%} interval)")
    ax.legend(frameon=False, fontsize="small")
    return ax
