"""The bottom line: whether to ship the packed net. The first rule that holds decides; docs/report.md lists them all."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from bayesprune.reporting.cautions import Caution, Kind
from bayesprune.reporting.findings import Findings
from bayesprune.reporting.intervals import Change
from bayesprune.reporting.units import NATS, PERCENT, PLAIN, POINTS, Unit, compared
from bayesprune.reporting.verdict import Figure

__all__ = ["FIGURES", "BottomLine", "Topic", "bottom_line", "voided"]

_ALIKE = 1.05  # times as large or as fast: less is noise
_TOO_MUCH: Mapping[Figure, tuple[float, str]] = {
    "error": (2.0, "has more than doubled"),
    "rmse": (1.5, "is more than half as much again"),
}
"""How many times the figure before is too much after, and in words."""

FIGURES: Mapping[Figure, tuple[str, Unit, Unit]] = {
    "error": ("error", POINTS, PERCENT),
    "rmse": ("RMSE", PLAIN, PLAIN),
    "nll": ("NLL", NATS, NATS),
}
"""What a figure is called, its change's unit, and its own."""

Answer = Literal["ship", "weigh", "cannot say", "do not ship"]
_SAID: Mapping[Answer, str] = {
    "ship": "Ship it", "weigh": "Weigh it", "cannot say": "Cannot say yet", "do not ship": "Do not ship",
}  # fmt: skip

Topic = Literal["size", "speed", "figure", "worst class", "calibration", "nll", "coverage", "untrained rival", "rival"]
_COSTS: frozenset[Topic] = frozenset(("figure", "worst class", "calibration", "nll", "coverage"))
_RIVALS: frozenset[Topic] = frozenset(("untrained rival", "rival"))
_VOIDED: Mapping[Kind, frozenset[Topic]] = {
    "useless": _COSTS | _RIVALS | {"size", "speed"},
    "never predicted": _COSTS | _RIVALS | {"size", "speed"},
    "untrained": _COSTS | _RIVALS,
    "no control": _COSTS | {"untrained rival"},
    "too sure": frozenset(("calibration", "nll", "coverage")),
    "class": frozenset(("figure", "worst class")),
}
"""Of which lines of the verdict a warning voids the good news."""


@dataclass(frozen=True)
class BottomLine:
    """Whether to ship the packed net.

    Attributes:
        answer: in one word.
        because: why, with the figures that decided.
    """

    answer: Answer
    because: str

    def __str__(self) -> str:
        return f"{_SAID[self.answer]}: {self.because}."


def voided(topic: Topic, warnings: Iterable[Caution]) -> bool:
    """Whether good news about a topic would mislead, for one of the warnings says what it is worth.

    >>> voided("size", [Caution("useless", "the pruned net", "…")]), voided("size", [])
    (True, False)
    """
    return any(topic in _VOIDED.get(warning.kind, ()) for warning in warnings)


def bottom_line(found: Findings) -> BottomLine:
    """The answer of the first rule that holds."""
    return next(answer for rule in _RULES if (answer := rule(found)) is not None)


def _useless(found: Findings) -> BottomLine | None:
    if not _warned(found, "useless"):
        return None
    worse = found.verdict.rmse is not None
    return BottomLine(
        "do not ship", "it is worse than a constant" if worse else "it is no better than one answer for all"
    )


def _never_predicted(found: Findings) -> BottomLine | None:
    for warning in _warned(found, "never predicted"):
        verb = "is" if warning.about.startswith("1 of") else "are"
        return BottomLine("do not ship", f"{warning.about} {verb} never predicted")
    return None


def _untrained(found: Findings) -> BottomLine | None:
    if not _warned(found, "untrained"):
        return None
    return BottomLine(
        "cannot say", "the dense net does no better than one answer for all, so there is nothing to compare with"
    )


def _too_much_worse(found: Findings) -> BottomLine | None:
    name, change = _figure(found)
    if name not in _TOO_MUCH or change.direction <= 0 or change.after <= _TOO_MUCH[name][0] * change.before:
        return None
    what, _, unit = FIGURES[name]
    return BottomLine(
        "do not ship", f"the {what} {_TOO_MUCH[name][1]}, {unit(change.before)} → {unit(change.after)}, beyond chance"
    )


def _a_rival_is_better(found: Findings) -> BottomLine | None:
    """Beyond chance, and neither larger nor slower."""
    ours = found.verdict.packed
    what, unit, _ = FIGURES[_figure(found)[0]]
    for row in found.models:
        change = found.verdict.rivals.get(row.name)
        if change is None or change.direction <= 0 or None in (row.nbytes, row.seconds, ours.nbytes, ours.seconds):
            continue
        if row.nbytes <= _ALIKE * ours.nbytes and row.seconds <= _ALIKE * ours.seconds:  # type: ignore[operator]
            less = unit(change.difference)
            return BottomLine("do not ship", f"{row.name} has {less} less {what}, and is neither larger nor slower")
    return None


def _nothing_gained(found: Findings) -> BottomLine | None:
    if found.verdict.smaller > _ALIKE or found.verdict.faster > _ALIKE:
        return None
    return BottomLine("do not ship", "it is neither smaller nor faster than the dense net")


def _no_control(found: Findings) -> BottomLine | None:
    if not _warned(found, "no control"):
        return None
    return BottomLine(
        "cannot say",
        f"the dense net was trained for {found.verdict.behind} epochs less, so what pruning cost is not known; "
        + _gain(found),
    )


def _worse(found: Findings) -> BottomLine | None:
    name, change = _figure(found)
    if change.direction <= 0:
        return None
    what, unit, _ = FIGURES[name]
    return BottomLine("weigh", f"{_gain(found)}, for {unit(change.difference)} more {what}, beyond chance")


def _a_class_suffers(found: Findings) -> BottomLine | None:
    suffering = _warned(found, "class")
    if not suffering:
        return None
    names = ", ".join(warning.about for warning in suffering)
    return BottomLine("weigh", f"{_gain(found)}, and class{'es' * (len(suffering) > 1)} {names} suffered")


def _too_few(found: Findings) -> BottomLine | None:
    """The examples do not rule out that the cost is too much."""
    name, change = _figure(found)
    if name not in _TOO_MUCH:
        return None
    most, (what, unit, _) = (_TOO_MUCH[name][0] - 1) * change.before, FIGURES[name]
    if change.high <= max(most, 0.01 if name == "error" else 0.0):
        return None
    n = f"{found.models[0].score.n:,} examples"
    up = "" if math.isnan(change.high) else f": by up to {unit(change.high)} (95% interval)"
    return BottomLine("cannot say", f"{n} do not rule out that the {what} {_TOO_MUCH[name][1]}{up}; {_gain(found)}")


def _ship(found: Findings) -> BottomLine:
    name, change = _figure(found)
    what, unit, _ = FIGURES[name]
    moved = f"{what} {unit.directed(change.difference)}"
    told = "" if change.direction or not change.difference else ", which may be chance"
    return BottomLine("ship", f"{_gain(found)}, {moved}{told}")


_RULES: tuple[Callable[[Findings], BottomLine | None], ...] = (
    *(_useless, _never_predicted, _untrained, _too_much_worse, _a_rival_is_better, _nothing_gained),
    *(_no_control, _worse, _a_class_suffers, _too_few, _ship),
)


def _warned(found: Findings, kind: Kind) -> list[Caution]:
    return [warning for warning in found.warnings if warning.kind == kind]


def _figure(found: Findings) -> tuple[Figure, Change]:
    """What the nets are judged by, and how it changed."""
    verdict = found.verdict
    if verdict.error is not None:
        return "error", verdict.error
    return ("nll", verdict.nll) if verdict.rmse is None else ("rmse", verdict.rmse)


def _gain(found: Findings) -> str:
    faster = found.verdict.faster
    alike = 1 / _ALIKE < faster < _ALIKE
    quick = "as fast as dense" if alike else compared(faster, "faster", "slower")
    return f"{compared(found.verdict.smaller, 'smaller', 'larger')}, {quick}"
