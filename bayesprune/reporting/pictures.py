"""Pictures of the report's page: inline SVG, with tooltips."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import Any

import matplotlib.style
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from torch import Tensor

from bayesprune import plots
from bayesprune.evaluation.verification import Role
from bayesprune.likelihoods import Categorical
from bayesprune.network.state import PosteriorState
from bayesprune.plots.style import VERMILION
from bayesprune.reporting.bottom_line import FIGURES
from bayesprune.reporting.curve import Curve
from bayesprune.reporting.findings import Findings
from bayesprune.reporting.grids import DEEP
from bayesprune.reporting.inline import STYLE, Tips, inline_svg
from bayesprune.reporting.units import latency, size, speed

__all__ = ["Picture", "pictures"]

_WIDTH = 4.6  # inches: about as wide as a phone, so that letters stay legible there
_MOST_CLASSES = 30
_LONGEST = 22  # letters of a name beside a picture


@dataclass(frozen=True)
class Picture:
    """One picture.

    Args:
        title: what it shows.
        svg: the element.
    """

    title: str
    svg: str


Drawn = tuple[str, str, Figure, Tips]
"""Title, the same in words, the figure, and what the pointer shows."""


def pictures(report: Findings, state: PosteriorState, curve: Curve | None) -> list[Picture]:
    """What there is to see: error against size with this net on the curve, calibration, classes, what is kept,
    latencies and the layers' signal-to-noise ratios (of ``state``); of deep nets no picture a layer."""
    with matplotlib.style.context(["default", STYLE]):  # whatever the user's own style is
        return [
            Picture(title, inline_svg(figure, tips, f"p{k}", text))
            for k, (title, text, figure, tips) in enumerate(_drawn(report, state, curve))
        ]


def _drawn(report: Findings, state: PosteriorState, curve: Curve | None) -> Iterator[Drawn]:
    if curve is not None:
        yield _on_the_curve(report, curve)
    yield from _classes(report)
    if len(report.subject.masks) < DEEP:
        yield _kept(report)
    figure, ax = _figure(1.0 + 0.45 * len(report.models))
    timed = [row for row in report.models if row.seconds is not None]
    plots.model_latency([replace(row, name=_folded(row.name)) for row in timed], ax=ax)
    ax.margins(x=0.35)  # for what is written over the points at the sides
    told = (f"{row.name}: {latency(row.seconds)} {speed(row.speedup)}".rstrip() for row in timed)
    tips: Tips = {line: [text] for line, text in zip(ax.lines, told, strict=False)}
    yield "Latency of the models", f"Latency of a batch of {report.batch}, model by model", figure, tips
    if len(report.subject.masks) < DEEP:
        yield from _layers(report, state)


def _on_the_curve(report: Findings, curve: Curve) -> Drawn:
    """The sweep's curve, and where this net lies."""
    score, name = report.verdict.packed.score, "error" if report.verdict.error is not None else "rmse"
    name = name if getattr(score, name) is not None else "nll"
    what, _, unit = FIGURES[name]  # type: ignore[index]
    frame, scale = curve.to_frame(), 100 if name == "error" else 1
    figure, ax = _figure(3.6)
    plots.sparsity_curve(frame, metric=name, ax=ax)
    tips: dict[Any, list[str]] = {}
    for line in ax.lines:
        rows = frame[frame["saliency"] == line.get_label()]
        at = rows.groupby("asked")[["kept", name, "bytes"]].mean().sort_values("kept")
        tips[line] = [
            f"{line.get_label()}, {kept:.2%} kept, {size(nbytes)}: {what} {unit(value)}"
            for kept, value, nbytes in at.itertuples(index=False)
        ] or [str(line.get_label())]
    here, same = report.verdict.packed, {point.score.n for point in curve.points} == {score.n}
    value, label = getattr(score, name), "this net" if same else "this net, on other examples"
    (mark,) = ax.plot(
        *(100 * here.kept, scale * value), marker="*", markersize=15, color=VERMILION, linestyle="", label=label
    )
    tips[mark] = [f"{label}, {here.kept:.2%} kept, {size(here.nbytes)}: {what} {unit(value)}"]
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize="small")
    return f"{what[0].upper()}{what[1:]} against size", f"{what} against the weights kept, with this net", figure, tips


def _classes(report: Findings) -> Iterator[Drawn]:
    found, names = report.subject.found, report.subject.names
    likelihood = report.subject.bnet.observation
    if not names or not isinstance(likelihood, Categorical):
        return
    each = {
        when: likelihood.observations(found.outputs[role].double(), found.targets)
        for when, role in (("before", found.reference), ("after", Role.PRUNED))
    }
    probs, y = {when: logits.softmax(-1) for when, (logits, _) in each.items()}, each["before"][1]
    y = y.argmax(-1) if y.is_floating_point() else y
    figure, ax = _figure(4.0)
    plots.reliability(probs, y, ax=ax)
    tips: dict[Any, list[str]] = {}
    for when, points in zip(probs, ax.collections, strict=False):
        offsets = points.get_offsets()
        tips[points] = [f"{when}: confidence {x:.1%}, accuracy {hit:.1%}" for x, hit in offsets.tolist()]
    yield "Calibration", "Accuracy against confidence before and after pruning", figure, tips
    if len(names) <= _MOST_CLASSES:
        figure, ax = _figure(3.4)
        short = [_plain(name if len(name) <= 16 else f"{name[:15]}…") for name in names]
        plots.class_errors(probs, y, classes=short, ax=ax)
        tips = {}
        for when, bars in zip(probs, [c for c in ax.containers if isinstance(c, BarContainer)], strict=False):
            for name, bar in zip(names, bars, strict=True):
                tips[bar] = [f"class {name}, {when}: {bar.get_height():.2f}% missed"]
        yield "Error of each class", "Error of each class before and after, with 95% intervals", figure, tips


def _kept(report: Findings) -> Drawn:
    masks = report.subject.masks
    figure, ax = _figure(0.9 + 0.4 * len(masks))
    plots.kept_fractions({_folded(name): mask for name, mask in masks.items()}, ax=ax)
    bars = ax.containers[0]
    assert isinstance(bars, BarContainer)
    tips = {
        bar: [f"{name}: {int(mask.sum()):,} of {mask.numel():,} entries kept"]
        for bar, (name, mask) in zip(bars, masks.items(), strict=True)
    }
    return "What is kept", "The fraction of each weight's entries that is kept", figure, tips


def _layers(report: Findings, state: PosteriorState) -> Iterator[Drawn]:
    masks: Mapping[str, Tensor] = report.subject.masks
    timed = {name: report.plan[name] for name in masks if report.plan[name].seconds}
    if timed:
        figure, ax = _figure(1.0 + 0.7 * len(timed))
        plots.layer_latency(replace(report.plan, choices={_folded(n): c for n, c in timed.items()}), ax=ax)
        tips: dict[Any, list[str]] = {}
        for bars, how in zip(ax.containers, ("dense", "as planned"), strict=True):
            assert isinstance(bars, BarContainer)
            for bar, (name, choice) in zip(bars, timed.items(), strict=True):
                seconds = choice.seconds["dense" if how == "dense" else choice.label]
                tips[bar] = [f"{name}, {how}: {latency(seconds)}"]
        yield "Latency of the layers", "Latency of each layer, dense and as planned", figure, tips
    panels = {name: _figure(3.6) for name in masks}
    axes = [ax for _, ax in panels.values()]
    plots.snr_histograms(report.subject.bnet, masks, cut=True, axes=axes, state=state)
    for name, (figure, ax) in panels.items():
        ax.set_title(_folded(ax.get_title(), 46), fontsize="medium")
        ax.set_ylabel("groups")
        if (own := ax.get_legend()) is not None:
            own.remove()
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        tips = {}
        for bars, which in zip(ax.containers, ("kept", "not kept"), strict=True):
            assert isinstance(bars, BarContainer)
            for bar in bars:
                if bar.get_height():
                    low, high = (10**x for x in (bar.get_x(), bar.get_x() + bar.get_width()))
                    tips[bar] = [f"{bar.get_height():,.0f} groups {which}, with SNR {low:.2g} to {high:.2g}"]
        text = f"Histogram of the signal-to-noise ratio of the groups of {name}"
        yield "Signal-to-noise ratio", text, figure, tips


def _folded(name: str, width: int = _LONGEST) -> str:
    return _plain("\n".join(wrap(name, width)))


def _plain(name: str) -> str:
    return name.replace("$", r"\$")  # between dollars matplotlib sees formulas


def _figure(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()
