"""The report as HTML: a fragment for notebooks, and a self-contained page."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from bayesprune._files import replace
from bayesprune.evaluation.verification import ModelRow
from bayesprune.network.state import PosteriorState
from bayesprune.reporting.bottom_line import FIGURES, bottom_line
from bayesprune.reporting.findings import Findings
from bayesprune.reporting.intervals import Change
from bayesprune.reporting.loading import load_lines
from bayesprune.reporting.tables import (
    classes_table,
    costs_table,
    models_table,
    plan_table,
    sizes_table,
    weights_table,
)
from bayesprune.reporting.units import Unit, latency, size, speed
from bayesprune.reporting.verdict import Figure
from bayesprune.reporting.versions import versions
from bayesprune.reporting.wording import Line, footnotes, interval_words, verdict_lines

if TYPE_CHECKING:
    from bayesprune.reporting.curve import Curve

__all__ = ["Origin", "fragment", "write_page"]

_LONGEST = 30  # letters of a name in a table: more are elided in the middle


@dataclass(frozen=True)
class Origin:
    """Where a report's figures come from, as far as it is known: for the page's title, its recipe and its curve.

    Attributes:
        model: the name of the saved model.
        net, data, run: what they are called.
        recipe: a text that repeats the run.
        curve: a sweep of the same net.
    """

    model: str = "model.safetensors"
    net: str | None = None
    data: str | None = None
    run: str | None = None
    recipe: str | None = None
    curve: "Curve | None" = None


@dataclass(frozen=True)
class Bar:
    """An interval beside 0, on a width of 200: its ends, the middle, and what it says in words."""

    low: float
    high: float
    middle: float
    text: str
    good: bool | None

    @classmethod
    def of(cls, change: Change | None, unit: Unit, good: bool | None) -> "Bar | None":
        """The bar of a change; ``None`` where it has no interval."""
        if change is None or not change.low <= change.high:  # NaN too
            return None
        reach = max(abs(change.low), abs(change.high), abs(change.difference)) or 1.0
        low, high, middle = (100 + 84 * x / reach for x in (change.low, change.high, change.difference))
        return cls(low, high, middle, interval_words(change, unit), good)


@dataclass(frozen=True)
class Beside:
    """A row of the table of rivals: the model, and this net's change against it."""

    name: str
    kept: str
    figure: str
    told: str
    good: bool | None
    bar: Bar | None
    size: str
    latency: str
    speed: str
    this: bool = False


def fragment(report: Findings) -> str:
    """The verdict, the warnings and the tables, with their style."""
    return _template("fragment.html").render(_content(report))


def write_page(report: Findings, path: Path, origin: Origin, state: PosteriorState) -> None:
    """Write the whole page, with pictures of ``state``; ``path`` is replaced by it at once, or not at all.

    Raises:
        FileNotFoundError: there is no such folder.
        IsADirectoryError: ``path`` is a folder.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to write the report into; make it first")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder: name a file in it, such as report.html")
    from bayesprune.reporting.grids import confusion, layers_grid, most_confused  # matplotlib, for a page alone
    from bayesprune.reporting.inline import inline_png
    from bayesprune.reporting.pictures import pictures

    content = _content(report)
    if (pairs := most_confused(report)) is not None:
        content["tables"].insert(3, pairs)
    page = _template("page.html").render(
        content,
        pictures=pictures(report, state, origin.curve),
        confusion=confusion(report),
        layers=layers_grid(report, state),
        png=inline_png,
        origin=origin,
        net=origin.net or type(report.subject.bnet.net).__name__,
        loading=load_lines(report.subject.bnet.net, origin.model, origin.net),
    )
    replace(path, lambda fresh: fresh.write_text(page, encoding="utf-8"))


def _content(report: Findings) -> dict[str, Any]:
    tables = [models_table(report.models), costs_table(report.models, report.batch, report.plan)]
    if report.classes:
        tables.append(classes_table(report.classes))
    tables += [weights_table(report.weights), plan_table(report.weights, report.plan), sizes_table(report.sizes)]
    lines = verdict_lines(report)
    costs = [line for line in lines if line.topic not in ("rival", "untrained rival")]
    main = ("size", "speed", "figure") if any(line.topic == "figure" for line in costs) else ("size", "speed", "nll")
    return {
        "said": bottom_line(report),
        "headline": [line for line in costs if line.topic in main],
        "others": [line for line in costs if line.topic not in main],
        "beside": _beside(report, lines),
        "figure": FIGURES[_figure(report)][0],
        "marks": footnotes(lines),
        "bar": lambda line: Bar.of(line.change, line.unit, line.good),
        "warnings": report.warnings,
        "tables": tables,
        "report": report,
        "versions": versions(),
    }


def _figure(report: Findings) -> Figure:
    """What the nets are judged by."""
    return "error" if report.verdict.error else "rmse" if report.verdict.rmse else "nll"


def _beside(report: Findings, lines: Iterable[Line]) -> list[Beside]:
    """This net, the dense ones and every rival: how good, how large, how fast."""
    verdict = report.verdict
    figure = _figure(report)
    _, moved, unit = FIGURES[figure]
    ours = {line.title.removeprefix("Against "): line for line in lines}

    def row(model: ModelRow, this: bool = False) -> Beside:
        line = ours.get(model.name)
        change, good = (line.change, line.good) if line is not None else (None, None)
        if model is verdict.reference:
            first = next(x for x in lines if x.topic == ("nll" if figure == "nll" else "figure"))
            change, good = first.change, first.good
        bar = Bar.of(change, moved, good)
        told = "" if change is None else moved.directed(change.difference)
        value = unit(getattr(model.score, figure))
        costs = size(model.nbytes), latency(model.seconds), speed(model.speedup)
        return Beside(model.name, f"{model.kept:.2%}", value, told, good, bar, *costs, this=this)

    rivals = [model for model in report.models if model.name in verdict.rivals]
    dense = [model for model in report.models if model.role in (verdict.dense.role, verdict.reference.role)]
    return [row(verdict.packed, True), *(row(model) for model in (*dense, *rivals))]


def _elided(text: str, most: int = _LONGEST) -> str:
    """A long name without its middle: what tells layers apart is mostly at its ends.

    >>> _elided("encoder.layers.11.self_attention.in_proj_weight")
    'encoder.layers…in_proj_weight'
    """
    if len(text) <= most:
        return text
    half = (most - 2) // 2
    return f"{text[:half]}…{text[-half:]}"


@cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bayesprune.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["elided"] = _elided
    return environment.get_template(name)
