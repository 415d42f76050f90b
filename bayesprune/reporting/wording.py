"""The verdict in words: one line per figure, with its unit and interval."""

import math
from dataclasses import dataclass, replace

from bayesprune.reporting.intervals import LEVEL, Change
from bayesprune.reporting.verdict import ClassChange, Figure, Verdict
from bayesprune.sparse import Plan

__all__ = ["POINTS", "Line", "Unit", "chance", "latency", "threads", "times", "verdict_lines"]

_ALIKE = 1.05  # times as fast: less is noise


@dataclass(frozen=True)
class Line:
    """One line of the verdict.

    Args:
        title: what it is about.
        value: the figure that sums it up.
        detail: what that is made of.
        good: whether it is good news; ``None`` where it is neither, or may be chance.
    """

    title: str
    value: str
    detail: str
    good: bool | None = None


@dataclass(frozen=True)
class Unit:
    """How numbers of one kind are written.

    >>> Unit(100, ".2f", " points")(-0.012)
    '−1.20 points'
    """

    scale: float
    form: str
    name: str

    def bare(self, x: float) -> str:
        """The number alone."""
        return f"{self.scale * x:{self.form}}".replace("-", "−")

    def __call__(self, x: float) -> str:
        return self.bare(x) + self.name

    def directed(self, difference: float) -> str:
        """A difference, as higher or lower."""
        return f"{self(abs(difference))} {'higher' if difference > 0 else 'lower'}" if difference else "the same"


POINTS = Unit(100, ".2f", " points")
_PERCENT = Unit(100, ".2f", "%")
_NATS = Unit(1, ".4f", " nats")
_PLAIN = Unit(1, ".4g", "")
_GAP = Unit(1, ".4f", "")
_FIGURES: dict[Figure, tuple[str, Unit, Unit]] = {
    "error": ("error", POINTS, _PERCENT),
    "rmse": ("RMSE", _PLAIN, _PLAIN),
    "nll": ("NLL", _NATS, _NATS),
}
"""What a figure is called, its change's unit, and its own."""


def verdict_lines(verdict: Verdict, batch: int, plan: Plan) -> tuple[Line, ...]:
    """The verdict in words, one line for each figure."""
    dense, packed = verdict.dense, verdict.packed
    size = (
        f"{packed.nbytes:,} bytes on disk, dense {dense.nbytes:,} ({verdict.dtype}); {packed.kept:.2%} of the weights "
        "kept"
    )
    speed = (
        f"{latency(packed.seconds)} for a batch of {batch}, dense {latency(dense.seconds)}; on {plan.device}, "
        f"{threads(plan)}, timed in turns"
    )
    alike = 1 / _ALIKE < verdict.faster < _ALIKE
    quick = "as fast as dense" if alike else _ratio(verdict.faster, "faster", "slower")
    lines = [
        Line("Size", _ratio(verdict.smaller, "smaller", "larger"), size, verdict.smaller > 1),
        Line("Speed", quick, speed, None if alike else verdict.faster > 1),
    ]
    costs = []
    if verdict.error is not None:
        costs.append(_change_line("Error", verdict.error, POINTS, _PERCENT))
    if verdict.rmse is not None:
        costs.append(_change_line("RMSE", verdict.rmse, _PLAIN, _PLAIN))
    if verdict.worst is not None:
        costs.append(_worst(verdict.worst))
    if (before := verdict.reference.score.ece) is not None and (after := packed.score.ece) is not None:
        detail = f"expected calibration error {before:.4f} → {after:.4f}, 15 bins"
        costs.append(Line("Calibration", _GAP.directed(after - before), detail))
    costs.append(_change_line("NLL", verdict.nll, _NATS, _NATS))
    if (c := verdict.coverage) is not None:
        detail = f"of 95% intervals: {verdict.reference.name} {c.before:.1%} → posterior predictive {c.after:.1%}"
        costs.append(Line("Coverage", f"{c.after:.1%}", f"{detail}; {_interval(c, POINTS)}"))
    for name, (figure, moved) in verdict.parts.items():
        what, unit, bare = _FIGURES[figure]
        costs.append(_change_line(f"{what[0].upper()}{what[1:]} of {name}", moved, unit, bare))
    lines += [_told(line, verdict.behind) for line in costs]
    what, unit, bare = _FIGURES["error" if verdict.error else "rmse" if verdict.rmse else "nll"]
    for name, rival in verdict.rivals.items():
        detail = (
            f"{bare(rival.after)} here, {bare(rival.before)} there, which keeps {verdict.rival_kept[name]:.2%}; "
            f"{_interval(rival, unit)}"
        )
        lines.append(Line(f"Against {name}", f"{what} {unit.directed(rival.difference)}", detail, _good(rival)))
    return tuple(lines)


def _told(line: Line, behind: int) -> Line:
    """The line as far as it holds: against a net that was trained for less, better is not said to be good."""
    if not behind:
        return line
    detail = f"{line.detail}; against a dense net of {behind} epochs less"
    return replace(line, detail=detail, good=None if line.good else line.good)


def times(ratio: float) -> str:
    """A ratio, to three figures; a small one as a fraction.

    >>> times(2.5), times(1 / 1720)
    ('2.5×', '1/1,720×')
    """
    if ratio < 0.01:
        return f"1/{1 / ratio:,.0f}×"
    return f"{ratio:.3g}×" if ratio < 1000 else f"{ratio:,.0f}×"


def latency(seconds: float | None) -> str:
    """A time in microseconds; nothing where there is none."""
    return "" if seconds is None else f"{seconds * 1e6:,.0f} µs"


def chance(p: float) -> str:
    """A p-value, as far as it says something.

    >>> chance(0.0312), chance(1e-30)
    ('p = 0.031', 'p < 0.0001')
    """
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def threads(plan: Plan) -> str:
    """On how many threads a plan was timed."""
    return f"{plan.threads} thread{'s' * (plan.threads != 1)}"


def _change_line(title: str, change: Change, unit: Unit, figure: Unit) -> Line:
    detail = f"{figure(change.before)} → {figure(change.after)}; {_interval(change, unit)}"
    return Line(title, unit.directed(change.difference), detail, _good(change))


def _worst(worst: ClassChange) -> Line:
    detail = (
        f"class {worst.name}: {worst.before:.2%} → {worst.after:.2%} of its {worst.examples:,} examples are missed "
        f"(95% interval {worst.low:.2%} to {worst.high:.2%}, Wilson; McNemar's exact {chance(worst.p)})"
    )
    good = None if worst.p > 1 - LEVEL else worst.rise < 0
    return Line("Worst class", POINTS.directed(worst.rise), detail, good)


def _good(change: Change) -> bool | None:
    return None if change.direction == 0 else change.direction < 0


def _interval(change: Change, unit: Unit) -> str:
    if math.isnan(change.low):
        return "too few examples for an interval"
    by_chance = "" if change.p is None else f"; McNemar's exact {chance(change.p)}"
    sure = "" if change.direction else ", so it may be chance"
    return f"95% interval of the change {unit.bare(change.low)} to {unit(change.high)} ({change.how}{by_chance}){sure}"


def _ratio(ratio: float, above: str, below: str) -> str:
    return f"{times(max(ratio, 1 / ratio))} {above if ratio >= 1 else below}"
