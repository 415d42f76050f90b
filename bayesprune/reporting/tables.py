"""The report's tables, each once, for the terminal and for the page."""

from collections.abc import Callable, Iterable, Sequence

from bayesprune.evaluation.scoring import Score, standard_error
from bayesprune.evaluation.verification import ModelRow
from bayesprune.reporting.units import POINTS, chance, compared, latency, size, speed, threads
from bayesprune.reporting.verdict import ClassChange
from bayesprune.reporting.weights import WeightRow
from bayesprune.sparse import Plan
from bayesprune.sparse.saving.byte_counts import ByteCount
from bayesprune.tables import Table

__all__ = ["classes_table", "costs_table", "models_table", "plan_table", "sizes_table", "weights_table"]

_MOST_CLASSES = 20
_FIGURES: dict[str, Callable[[Score], str]] = {
    "error": lambda s: "" if s.error is None else f"{s.error:.2%} ± {standard_error(s.error, s.n):.2%}",
    "RMSE": lambda s: "" if s.rmse is None else f"{s.rmse:.4g}",
    "NLL": lambda s: f"{s.nll:.3f}",
    "ECE": lambda s: "" if s.ece is None else f"{s.ece:.3f}",
    "Brier": lambda s: "" if s.brier is None else f"{s.brier:.3f}",
    "coverage": lambda s: "" if s.coverage is None else f"{s.coverage:.1%}",
}
"""A figure by its heading, in words; empty where it does not apply."""


def weights_table(weights: Iterable[WeightRow]) -> Table:
    """What was fitted, and what stays."""
    rows = (
        (
            *(w.name, _shape(w.shape), f"{w.kept:.2%}", f"{w.snr:.3g}", "–" if w.bits is None else str(w.bits)),
            *(w.method, w.pattern, "yes" if w.local else "no"),
        )
        for w in weights
    )
    headings = ("weight", "shape", "kept", "SNR", "bits", "method", "pruned together", "local draws")
    words = frozenset(("weight", "shape", "method", "pruned together", "local draws"))
    note = "SNR is the median of the groups that are kept; bits are what the posterior lets them bear"
    return Table("Weights", words, headings, tuple(rows), note)


def plan_table(weights: Iterable[WeightRow], plan: Plan) -> Table:
    """How each weight runs, and why."""
    rows = []
    for weight in weights:
        c = weight.choice
        quick = "not timed" if c.speedup is None else speed(c.speedup) or "as fast"
        rows.append((weight.name, str(c.format), c.reason, quick, size(c.nbytes), size(c.dense_nbytes)))
    headings = ("weight", "format", "why", "than dense", "size", "dense size")
    note = f"timed on {plan.device}, {threads(plan)}"
    return Table("Plan", frozenset(("weight", "format", "why")), headings, tuple(rows), note)


def models_table(models: Sequence[ModelRow]) -> Table:
    """How good the models are that were compared."""
    first = models[0].score
    shown = [what for what, figure in _FIGURES.items() if figure(first)]
    rows = [(row.name, f"{row.kept:.2%}", *(_FIGURES[what](row.score) or "–" for what in shown)) for row in models]
    for name in first.parts:
        part = [what for what, figure in _FIGURES.items() if what != "NLL" and figure(first.parts[name])]
        of = {f"{what} of {name}": _FIGURES[what] for what in part}
        shown += list(of)
        rows = [(*r, *(f(m.score.parts[name]) or "–" for f in of.values())) for r, m in zip(rows, models, strict=True)]
    note = f"on {first.n:,} {'examples' if first.error is None else 'labels'}"
    note += "; error ± its standard error" * (first.error is not None)
    return Table("Models", frozenset(("model",)), ("model", "kept", *shown), tuple(rows), note)


def costs_table(models: Sequence[ModelRow], batch: int, plan: Plan) -> Table:
    """How large and how fast those models are that were packed."""
    rows = (
        (row.name, size(row.nbytes), latency(row.seconds), speed(row.speedup) or "–")
        for row in models
        if row.nbytes is not None and row.speedup is not None
    )
    note = f"latency of a batch of {batch} on {plan.device}, {threads(plan)}, timed in turns with dense"
    headings = ("model", "size", "latency", "than dense")
    return Table("Costs", frozenset(("model",)), headings, tuple(rows), note)


def sizes_table(sizes: Iterable[ByteCount]) -> Table:
    """How large each weight is."""
    rows = ((s.name, size(s.dense), size(s.packed), size(s.compressed) or "–", _than_dense(s.ratio)) for s in sizes)
    headings = ("weight", "dense float32", "packed", "compressed", "than dense")
    note = "compressed is what bp.save writes with compress=True and the variances"
    return Table("Sizes", frozenset(("weight",)), headings, tuple(rows), note)


def classes_table(classes: Sequence[ClassChange]) -> Table:
    """What pruning did to each class, or to the twenty whose error rose most."""
    rows = (
        (
            c.name,
            f"{c.examples:,}",
            f"{c.before:.2%}",
            f"{c.after:.2%}",
            f"{c.low:.2%} to {c.high:.2%}",
            POINTS(c.rise),
            chance(c.p),
        )
        for c in classes[:_MOST_CLASSES]
    )
    cut = f"; {_MOST_CLASSES} of {len(classes):,} are shown" if len(classes) > _MOST_CLASSES else ""
    headings = ("class", "examples", "missed before", "missed after", "95% interval (Wilson)", "rise", "McNemar")
    return Table("Classes", frozenset(("class",)), headings, tuple(rows), f"the largest rise in error first{cut}")


def _than_dense(ratio: float | None) -> str:
    return "–" if ratio is None else compared(ratio, "smaller", "larger")


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(str(n) for n in shape)
