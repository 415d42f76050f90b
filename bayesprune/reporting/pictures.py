"""SVG pictures of the report's page."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from textwrap import wrap
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure
from torch import Tensor

from bayesprune import plots
from bayesprune.evaluation.verification import Role
from bayesprune.likelihoods import Categorical
from bayesprune.network.state import PosteriorState
from bayesprune.reporting.findings import Findings

__all__ = ["Picture", "pictures"]

_WIDTH = 4.6  # inches: about as wide as a phone, so that letters stay legible there
_MOST_CLASSES, _MOST_BARS, _MOST_HISTOGRAMS = 30, 20, 10


@dataclass(frozen=True)
class Picture:
    """One picture.

    Args:
        title: what it shows.
        text: the same for those who do not see it.
        uri: the SVG as a ``data:`` address.
    """

    title: str
    text: str
    uri: str


def pictures(report: Findings, state: PosteriorState) -> list[Picture]:
    """What there is to see: the layers' signal-to-noise ratios (of ``state``), calibration, classes and latencies."""
    with matplotlib.style.context(["default", {"svg.hashsalt": "bayesprune"}]):  # whatever the user's own style is
        return [Picture(title, text, _uri(figure)) for title, text, figure in _drawn(report, state)]


def _drawn(report: Findings, state: PosteriorState) -> Iterator[tuple[str, str, Figure]]:
    found, names = report.subject.found, report.subject.names
    likelihood = report.subject.bnet.observation
    if names and isinstance(likelihood, Categorical):
        each = {
            when: likelihood.observations(found.outputs[role].double(), found.targets)
            for when, role in (("before", found.reference), ("after", Role.PRUNED))
        }
        probs, y = {when: logits.softmax(-1) for when, (logits, _) in each.items()}, each["before"][1]
        y = y.argmax(-1) if y.is_floating_point() else y
        figure, ax = _figure(4.0)
        plots.reliability(probs, y, ax=ax)
        yield "Calibration", "Accuracy against confidence before and after pruning", figure
        if len(names) <= _MOST_CLASSES:
            figure, ax = _figure(3.4)
            short = [_plain(name if len(name) <= 16 else f"{name[:15]}…") for name in names]
            plots.class_errors(probs, y, classes=short, ax=ax)
            yield "Error of each class", "Error of each class before and after, with 95% intervals", figure
    masks, which = _largest(report.subject.masks, _MOST_BARS)
    figure, ax = _figure(0.9 + 0.4 * len(masks))
    plots.kept_fractions({_folded(name): mask for name, mask in masks.items()}, ax=ax)
    yield f"What is kept{which}", f"The fraction of each weight's entries that is kept{which}", figure
    figure, ax = _figure(1.0 + 0.45 * len(report.models))
    plots.model_latency([replace(row, name=_folded(row.name)) for row in report.models], ax=ax)
    ax.margins(x=0.35)  # for what is written over the points at the sides
    yield "Latency of the models", f"Latency of a batch of {report.batch}, model by model", figure
    timed = {_folded(name): report.plan[name] for name in masks if report.plan[name].seconds}
    if timed:
        figure, ax = _figure(1.0 + 0.7 * len(timed))
        plots.layer_latency(replace(report.plan, choices=timed), ax=ax)
        yield f"Latency of the layers{which}", f"Latency of each layer, dense and as planned{which}", figure
    masks, which = _largest(masks, _MOST_HISTOGRAMS)
    panels = {name: _figure(3.2) for name in masks}
    plots.snr_histograms(report.subject.bnet, masks, axes=[ax for _, ax in panels.values()], state=state)
    for name, (figure, ax) in panels.items():
        ax.set_title(_folded(ax.get_title(), 46), fontsize="medium")
        ax.set_ylabel("groups")
        yield f"Signal-to-noise ratio{which}", f"Histogram of the signal-to-noise ratio of the groups of {name}", figure


def _largest(masks: Mapping[str, Tensor], most: int) -> tuple[dict[str, Tensor], str]:
    """At most so many of the masks, those of the largest weights, and words that say so."""
    names = sorted(masks, key=lambda name: masks[name].numel(), reverse=True)[:most]
    which = f", the {most} largest weights" if len(masks) > most else ""
    return {name: mask for name, mask in masks.items() if name in names}, which


def _folded(name: str, width: int = 22) -> str:
    return _plain("\n".join(wrap(name, width)))


def _plain(name: str) -> str:
    return name.replace("$", r"\$")  # between dollars matplotlib sees formulas


def _figure(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _uri(figure: Figure) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
