"""The verdict in words: one line per figure, with its unit and interval."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bayesprune.evaluation.verification import ModelRow, Role
from bayesprune.reporting.bottom_line import FIGURES, Topic, voided
from bayesprune.reporting.findings import Findings
from bayesprune.reporting.intervals import LEVEL, Change
from bayesprune.reporting.units import NATS, PERCENT, PLAIN, POINTS, Unit, chance, compared, latency, size, threads
from bayesprune.reporting.verdict import ClassChange

__all__ = ["Line", "footnotes", "interval_words", "rival_line", "verdict_lines"]

_ALIKE = 1.05  # times as fast: less is noise
_MARKS = "¹²³⁴⁵⁶⁷⁸⁹"


@dataclass(frozen=True)
class Line:
    """One line of the verdict.

    Args:
        topic: what sort it is of.
        title: what it is about.
        value: the figure that sums it up.
        before, after: what it is made of; empty where there is no such pair.
        detail: what else there is to say.
        good: whether it is good news; ``None`` where it is neither, or may be chance.
        change: the figure's change and its interval, where there is one.
        unit: of that change.
        notes: the statistics behind it, by name, for footnotes.
    """

    topic: Topic
    title: str
    value: str
    before: str = ""
    after: str = ""
    detail: str = ""
    good: bool | None = None
    change: Change | None = None
    unit: Unit = PLAIN
    notes: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """All but title and value, in one sentence."""
        pair = f"{self.before} → {self.after}" if self.before else ""
        return "; ".join(filter(None, (pair, self.detail)))


def verdict_lines(found: Findings) -> tuple[Line, ...]:
    """The verdict in words, one line for each figure; good news that a warning voids is told, and not called good."""
    verdict = found.verdict
    dense, packed, reference = verdict.dense, verdict.packed, verdict.reference
    alike = 1 / _ALIKE < verdict.faster < _ALIKE
    lines = [
        Line(
            "size",
            "Size",
            compared(verdict.smaller, "smaller", "larger"),
            size(dense.nbytes),
            size(packed.nbytes),
            f"on disk, dense in {verdict.dtype}; {packed.kept:.2%} of the weights kept",
            verdict.smaller > 1,
        ),
        Line(
            "speed",
            "Speed",
            "as fast as dense" if alike else compared(verdict.faster, "faster", "slower"),
            latency(dense.seconds),
            latency(packed.seconds),
            f"for a batch of {found.batch}; on {found.plan.device}, {threads(found.plan)}, timed in turns",
            None if alike else verdict.faster > 1,
        ),
    ]
    costs = []
    if verdict.error is not None:
        costs.append(_change_line("figure", "Error", verdict.error, POINTS, PERCENT))
    if verdict.rmse is not None:
        costs.append(_change_line("figure", "RMSE", verdict.rmse, PLAIN, PLAIN))
    if verdict.worst is not None:
        costs.append(_worst(verdict.worst))
    if (before := reference.score.ece) is not None and (after := packed.score.ece) is not None:
        value = Unit(1, ".4f", "").directed(after - before)
        pair, note = (f"{before:.4f}", f"{after:.4f}"), "expected calibration error, 15 bins of confidence"
        costs.append(Line("calibration", "Calibration", value, *pair, notes=(note,)))
    costs.append(_change_line("nll", "NLL", verdict.nll, NATS, NATS))
    if (c := verdict.coverage) is not None:
        told = f"of 95% intervals, {reference.name} → posterior predictive; {interval_words(c, POINTS)}"
        pair = f"{c.before:.1%}", f"{c.after:.1%}"
        costs.append(Line("coverage", "Coverage", pair[1], *pair, told, None, c, POINTS, _notes(c)))
    for name, (figure, moved) in verdict.parts.items():
        what, unit, bare = FIGURES[figure]
        costs.append(_change_line("figure", f"{what[0].upper()}{what[1:]} of {name}", moved, unit, bare))
    lines += [_lagging(line, verdict.behind) for line in costs]
    lines += [rival_line(found, row) for row in found.models if row.name in verdict.rivals]
    return tuple(replace(x, good=None) if x.good and voided(x.topic, found.warnings) else x for x in lines)


def rival_line(found: Findings, row: ModelRow) -> Line:
    """A net that was pruned in another way beside this one; its change is from there to here."""
    verdict, change = found.verdict, found.verdict.rivals[row.name]
    what, unit, bare = FIGURES["error" if verdict.error else "rmse" if verdict.rmse else "nll"]
    costs = ", ".join(filter(None, (size(row.nbytes), latency(row.seconds))))
    there = f"{bare(change.before)} there, which keeps {verdict.rival_kept[row.name]:.2%} ({costs})"
    detail = f"{bare(change.after)} here, {there}; {interval_words(change, unit)}"
    value = f"{what} {unit.directed(change.difference)}"
    topic: Topic = "untrained rival" if row.role is Role.ONE_SHOT else "rival"
    return Line(
        *(topic, f"Against {row.name}", value), "", "", detail, _good(change), change, unit, _notes(change)
    )  # fmt: skip


def footnotes(lines: Iterable[Line]) -> dict[str, str]:
    """The statistics that the lines rest on, each once, in order → its mark."""
    notes = dict.fromkeys(note for line in lines for note in line.notes)
    return dict(zip(notes, _MARKS, strict=False))


def interval_words(change: Change, unit: Unit) -> str:
    """The interval of a change, and whether it may be chance."""
    if math.isnan(change.low):
        return "too few examples for an interval"
    by_chance = "" if change.p is None else f" ({chance(change.p)})"
    sure = "" if change.direction else ", so it may be chance"
    return f"95% interval of the change {unit.bare(change.low)} to {unit(change.high)}{by_chance}{sure}"


def _lagging(line: Line, behind: int) -> Line:
    """The line as far as it holds: against a net that was trained for less, better is not said to be good."""
    if not behind:
        return line
    detail = "; ".join(filter(None, (line.detail, f"against a dense net of {behind} epochs less")))
    return replace(line, detail=detail, good=None if line.good else line.good)


def _change_line(topic: Topic, title: str, change: Change, unit: Unit, figure: Unit) -> Line:
    pair = figure(change.before), figure(change.after)
    told = unit.directed(change.difference), *pair, interval_words(change, unit)
    return Line(topic, title, *told, _good(change), change, unit, _notes(change))


def _worst(worst: ClassChange) -> Line:
    detail = (
        f"class {worst.name}: the share of its {worst.examples:,} examples that is missed (95% interval "
        f"{worst.low:.2%} to {worst.high:.2%}; {chance(worst.p)})"
    )
    good = None if worst.p > 1 - LEVEL else worst.rise < 0
    pair, notes = (f"{worst.before:.2%}", f"{worst.after:.2%}"), ("interval: Wilson; p: McNemar's exact test",)
    return Line("worst class", "Worst class", POINTS.directed(worst.rise), *pair, detail, good, notes=notes)


def _good(change: Change) -> bool | None:
    return None if change.direction == 0 else change.direction < 0


def _notes(change: Change) -> tuple[str, ...]:
    if math.isnan(change.low):
        return ()
    return (f"interval: {change.how}" + ("" if change.p is None else "; p: McNemar's exact test"),)
