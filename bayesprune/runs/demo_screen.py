"""What the demo's screen ends with: one sentence, and a row for each net."""

from bayesprune.reporting import Point
from bayesprune.reporting.units import compared, size
from bayesprune.runs.demo import RIVAL, Demo
from bayesprune.tables import Table

__all__ = ["budgets_table", "headline"]


def headline(done: Demo) -> str:
    """What the smallest budget cost, beside its rival and the dense net, in one sentence."""
    verdict = done.report.verdict
    gain = compared(verdict.smaller, "smaller", "larger")
    found = (
        f"With {verdict.packed.kept:.2%} of the weights, {gain}, the posterior errs on {verdict.packed.score.error:.2%}"
    )
    for row in done.report.models:
        if row.name == RIVAL:
            found += f", {row.name} on {row.score.error:.2%}"
    return f"{found}, the {_plain(verdict.reference.name)} on {verdict.reference.score.error:.2%}."


def budgets_table(done: Demo) -> Table:
    """The dense nets, and the error of each budget by either method."""
    verdict, points = done.report.verdict, done.curve.points
    assert verdict.dense.nbytes  # it was saved
    dense = {row.name: row for row in (verdict.dense, verdict.reference)}
    rows = [(_plain(name), f"{row.score.error:.2%}", "–", size(row.nbytes), "–") for name, row in dense.items()]
    for asked in sorted({point.asked for point in points if point.saliency != "unpruned"}, reverse=True):
        at = {point.saliency: point for point in points if point.asked == asked}
        ours = at.get("posterior")
        errors = _error(ours), _error(at.get(RIVAL))
        less = "–" if ours is None else compared(verdict.dense.nbytes / ours.nbytes, "smaller", "larger")
        rows.append((f"posterior, {100 * asked:g}% kept", *errors, "–" if ours is None else size(ours.nbytes), less))
    headings = ("net", "error", f"{RIVAL}'s", "size", "than dense")
    return Table("Test error", frozenset(("net",)), headings, rows, f"beside it that of {RIVAL} to the same budget")


def _plain(name: str) -> str:
    return "dense net" if name == "dense" else name


def _error(point: Point | None) -> str:
    return "–" if point is None else f"{point.score.error:.2%}"
