"""Sparsity curves (what each budget costs) and training curves."""

from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, StrMethodFormatter
from pandas import DataFrame

from bayesprune.fitting.history import History
from bayesprune.plots.style import BLACK, BLUE, COLOURS, MARKERS, axes_for, panels_for

__all__ = ["shift", "sparsity_curve", "training_curves"]

_LABELS = {
    "error": "error, %",
    "rmse": "RMSE, the target's units",
    "nll": "NLL, nats per example",
    "ece": "expected calibration error",
    "brier": "Brier score",
    "coverage": "coverage of the central 95 %, %",
    "worst_rise": "largest rise of a class's error, points",
    "bytes": "size on disk, bytes",
    "seconds": "latency, seconds",
    "speedup": "times as fast as dense",
}
_PER_CENT = {"error", "coverage", "worst_rise"}


def sparsity_curve(frame: DataFrame, *, metric: str | None = None, ax: Axes | None = None) -> Axes:
    """What sparsity costs: a figure against the fraction of weights kept, a line for each ranking.

    Lines are means over nets and seeds, bands reach from the least to the greatest; dashed: the unpruned net.

    Args:
        frame: :meth:`bayesprune.Curve.to_frame`; of a sweep under corruptions the clean rows are drawn, or, where
            there are none, the mean over all: filter the frame to draw one corruption.
        metric: the column to draw; by default the error, or for real targets the RMSE, else the NLL.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: no such column.
    """
    metric = _column(frame, metric)
    if (frame["severity"] == 0).any():
        frame = frame[frame["severity"] == 0]
    factor = 100 if metric in _PER_CENT else 1
    ax = axes_for(ax)
    before = frame[frame["saliency"] == "unpruned"][metric].dropna()
    for k, (name, rows) in enumerate(frame[frame["saliency"] != "unpruned"].groupby("saliency", sort=False)):
        at = rows.groupby("asked").agg({"kept": "mean", metric: ["mean", "min", "max"]}).sort_values(("kept", "mean"))
        x, y = 100 * at["kept"]["mean"], factor * at[metric]
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        ax.plot(x, y["mean"], color=colour, marker=marker, markersize=5, label=str(name))
        ax.fill_between(x, y["min"], y["max"], color=colour, alpha=0.2, linewidth=0)
    if len(before):
        ax.axhline(factor * before.mean(), color=BLACK, linestyle="--", linewidth=1, label="unpruned")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.invert_xaxis()
    ax.set(xlabel="weights kept, %", ylabel=_LABELS.get(metric, metric))
    ax.legend(frameon=False, fontsize="small")
    return ax


def shift(frame: DataFrame, *, metric: str | None = None, ax: Axes | None = None) -> Axes:
    """How pruning fares when inputs shift: a figure under each corruption, a marker for each pruned net.

    Each is the mean over severities, nets and seeds.

    Args:
        frame: :meth:`bayesprune.Curve.to_frame` of a sweep with ``corruptions``.
        metric: the column to draw; by default the error, or for real targets the RMSE, else the NLL.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: no such column, or no corruptions.
    """
    metric = _column(frame, metric)
    if "corruption" not in frame or frame["corruption"].isna().all():
        raise ValueError("the sweep holds no corruptions: sweep(…, corruptions=[bp.corruptions.gaussian_noise, …])")
    factor = 100 if metric in _PER_CENT else 1
    named = frame.assign(corruption=frame["corruption"].fillna("clean"))
    places = list(named["corruption"].unique())
    ax = axes_for(ax, 5.6, 1.2 + 0.27 * len(places))
    styles = cycle(zip(COLOURS, MARKERS, strict=True))
    for (name, _), rows in named.groupby(["saliency", "asked"], sort=False):
        means = factor * rows.groupby("corruption")[metric].mean().reindex(places)
        label = name if name == "unpruned" else f"{name}, {100 * rows['kept'].mean():.3g} % kept"
        look: dict[str, Any] = {"color": BLACK, "marker": "|", "markersize": 13, "markeredgewidth": 2, "zorder": 3}
        if name != "unpruned":
            colour, marker = next(styles)
            look = {"color": colour, "marker": marker, "markersize": 7}
        ax.plot(means, range(len(places)), linestyle="", alpha=0.8, label=label, **look)
    ax.set_yticks(range(len(places)), places)
    ax.invert_yaxis()
    ax.grid(axis="y", alpha=0.3)
    ax.set_xlim(left=0)
    ax.set_xlabel(_LABELS.get(metric, metric) + " (mean over severities)")
    ax.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return ax


def training_curves(history: History, *, axes: Any = None) -> np.ndarray:
    """How a fit went: negative log-likelihood, KL and kept fraction, epoch by epoch.

    Args:
        history: what :func:`bayesprune.fit` returned.
        axes: three axes; by default a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: another number of axes.
    """
    axes = panels_for(axes, 3, 3.0, 2.8)
    epochs = [e.epoch for e in history.epochs]
    kept = [100 * k for k in history.kept]
    panels = (("NLL, nats per example", history.nll), ("KL, nats", history.kl), ("weights kept, %", kept))
    for ax, (label, values) in zip(axes, panels, strict=True):
        ax.plot(epochs, values, color=BLUE, marker="o" if len(epochs) <= 50 else None, markersize=3)
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[2].set_ylim(0, 105)
    axes[1].yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return axes


def _column(frame: DataFrame, metric: str | None) -> str:
    metric = metric or next((name for name in ("error", "rmse") if name in frame), "nll")
    if metric not in frame:
        raise ValueError(f"the sweep has no {metric!r}; its columns are {', '.join(map(str, frame.columns))}")
    return metric
