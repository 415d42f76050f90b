"""Latency of packed beside dense, per layer and for the whole net, as measured."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from bayesprune.evaluation.verification import ModelRow, Role
from bayesprune.plots.style import BLUE, ORANGE, axes_for
from bayesprune.sparse import Plan

__all__ = ["layer_latency", "model_latency"]


def layer_latency(plan: Plan, *, ax: Axes | None = None) -> Axes:
    """The median time of each layer, dense beside what the plan chose.

    Args:
        plan: from :func:`bayesprune.plan`, or a report's ``plan``. Layers that it did not time are left out.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: the plan timed no layer.
    """
    timed = {name: choice for name, choice in plan.choices.items() if choice.seconds}
    if not timed:
        raise ValueError("the plan timed no layer, for all stay dense: see print(plan) for the reasons")
    ax = axes_for(ax, 5.6, 1.0 + 0.7 * len(timed))
    place = np.arange(len(timed))
    dense = [1e3 * choice.seconds["dense"] for choice in timed.values()]
    chosen = [1e3 * choice.seconds[choice.label] for choice in timed.values()]
    ax.barh(place - 0.2, dense, 0.4, color=ORANGE, label="dense")
    bars = ax.barh(place + 0.2, chosen, 0.4, color=BLUE, label="as planned")
    ax.bar_label(bars, [f"{c.label}: {c.speedup:.3g}×" for c in timed.values()], padding=4, fontsize="small")
    ax.set_yticks(place, list(timed))
    ax.invert_yaxis()
    ax.margins(x=0.25)
    ax.set_xlabel(f"latency, ms ({plan.device}, {plan.threads} thread{'s' * (plan.threads != 1)})")
    ax.legend(frameon=False, fontsize="small")
    return ax


def model_latency(models: Sequence[ModelRow], *, ax: Axes | None = None) -> Axes:
    """The median time of one forward pass of each model that was timed.

    Args:
        models: a report's ``models``.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: no model was timed.
    """
    timed = [row for row in models if row.seconds is not None]
    if not timed:
        raise ValueError("none of the models was timed")
    ax = axes_for(ax, 5.6, 0.8 + 0.4 * len(timed))
    for k, row in enumerate(timed):
        milliseconds = 1e3 * (row.seconds or 0.0)
        ax.plot(milliseconds, k, marker="o", markersize=8, color=ORANGE if row.role is Role.DENSE else BLUE)
        ratio = row.speedup or 1.0
        times = max(ratio, 1 / ratio)
        label = f"{times:,.0f}×" if times >= 100 else f"{times:.3g}×"
        label += " faster" if ratio >= 1 else " slower"
        label = "" if row.role is Role.DENSE else label
        ax.annotate(label, (milliseconds, k), xytext=(0, 7), textcoords="offset points", ha="center", fontsize="small")
    ax.set_yticks(range(len(timed)), [row.name for row in timed])
    ax.set_xscale("log")
    ax.margins(x=0.2, y=0.4)
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.3)
    ax.set_xlabel("latency of one batch, ms")
    return ax
