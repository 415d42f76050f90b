"""Predictive uncertainty: entropies, its parts, and bands of a regression."""

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from bayesprune.evaluation.prediction import Prediction
from bayesprune.evaluation.ranking import auroc
from bayesprune.plots.style import BLACK, BLUE, ORANGE, SKY, axes_for

__all__ = ["entropies", "predictive_band", "uncertainty_parts"]


def entropies(
    inside: Tensor,
    outside: Tensor,
    *,
    labels: tuple[str, str] = ("in distribution", "out of distribution"),
    quantity: str = "epistemic entropy, nats",
    ax: Axes | None = None,
) -> Axes:
    """Is the net less sure of what it never saw? Two histograms of an uncertainty, and how well it tells them apart.

    Args:
        inside, outside: the uncertainty of each example: a :class:`bayesprune.Prediction`'s ``epistemic``, say.
        labels: what the two are.
        quantity: what the uncertainty is, with its unit.
        ax: where to draw; by default a new figure.
    """
    ax = axes_for(ax)
    parts = [part.double().flatten().cpu().numpy() for part in (inside, outside)]
    bins = np.histogram_bin_edges(np.concatenate(parts), bins=40)
    for values, label, colour in zip(parts, labels, (BLUE, ORANGE), strict=True):
        shares = np.full(len(values), 100 / max(len(values), 1))
        ax.hist(values, bins=list(bins), weights=shares, color=colour, alpha=0.6, label=label)
    ax.set_yscale("symlog", linthresh=1)
    ax.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    ax.set(xlabel=quantity, ylabel="examples, %", ylim=(0, 100))
    ax.set_title(f"AUROC {auroc(inside.flatten(), outside.flatten()):.3f}", fontsize="medium")
    ax.legend(frameon=False, fontsize="small")
    return ax


def uncertainty_parts(predictions: Mapping[str, Prediction], *, ax: Axes | None = None) -> Axes:
    """The epistemic and the aleatoric part of the uncertainty, averaged over each data set and stacked.

    Args:
        predictions: name → what :func:`bayesprune.predict` gave: all of classes, or all of real targets.
        ax: where to draw; by default a new figure.
    """
    ax = axes_for(ax, 5.6, 1.0 + 0.5 * len(predictions))
    names = list(predictions)
    aleatoric = np.array([float(p.aleatoric.double().mean()) for p in predictions.values()])
    epistemic = np.array([float(p.epistemic.double().mean()) for p in predictions.values()])
    ax.barh(names, epistemic, color=BLUE, label="epistemic: more data would settle it")
    ax.barh(names, aleatoric, left=epistemic, color=ORANGE, label="aleatoric: noise in the data")
    ax.invert_yaxis()
    classes = all(p.aleatoric.dim() < p.mean.dim() for p in predictions.values())
    ax.set_xlabel("entropy, nats (mean)" if classes else "variance, the target's units squared (mean)")
    ax.set_xlim(right=1.05 * float((epistemic + aleatoric).max()))
    ax.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax


def predictive_band(
    x: Tensor, prediction: Prediction, *, level: float = 0.95, output: int = 0, ax: Axes | None = None
) -> Axes:
    """The posterior predictive of a real target along one input: the mean, how sure it is of that, and the noise.

    The inner band is the mean's (epistemic) and the outer a target's (epistemic and aleatoric), both normal.

    Args:
        x: the input, a number an example.
        prediction: what :func:`bayesprune.predict` gave on it; its targets are drawn where it has them.
        level: the bands' probability, in (0, 1).
        output: which output, where there are several.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: a prediction of classes, or another number of inputs than of predictions.
    """
    if prediction.epistemic.shape != prediction.mean.shape:
        raise ValueError("predictive_band shows real targets; for classes see entropies and uncertainty_parts")
    if x.numel() != len(prediction.mean):
        raise ValueError(f"expected one input for each of {len(prediction.mean)} predictions, got {x.numel()}")
    along = x.flatten().cpu().numpy()
    order = np.argsort(along)
    parts = (prediction.mean, prediction.epistemic, prediction.aleatoric)
    mean, epistemic, aleatoric = (p.reshape(len(along), -1)[:, output].double().cpu().numpy() for p in parts)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    ax = axes_for(ax)
    for variance, label, colour, alpha in (
        (epistemic + aleatoric, "a target: epistemic and aleatoric", SKY, 0.35),
        (epistemic, "the mean: epistemic", BLUE, 0.5),
    ):
        low, high = mean - z * np.sqrt(variance), mean + z * np.sqrt(variance)
        ax.fill_between(along[order], low[order], high[order], color=colour, alpha=alpha, linewidth=0, label=label)
    ax.plot(along[order], mean[order], color=BLUE, label="mean")
    if prediction.targets is not None:
        y = prediction.targets.reshape(len(along), -1)[:, output].cpu().numpy()
        ax.scatter(along, y, s=6, color=BLACK, alpha=0.6, label="targets")
    ax.set(xlabel="input", ylabel="target")
    ax.set_title(f"{level:.0%} bands", fontsize="medium")
    ax.legend(frameon=False, fontsize="small")
    return ax
