"""Heat maps of the report's page: confusion of classes, and the layers of a deep net."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from bayesprune.evaluation.verification import Role
from bayesprune.network.state import PosteriorState
from bayesprune.plots.signal import Cut, snr_ratios, used_cuts
from bayesprune.reporting.findings import Findings
from bayesprune.reporting.units import speed
from bayesprune.tables import Table

__all__ = ["DEEP", "Cell", "Grid", "confusion", "layers_grid", "most_confused"]

DEEP = 12  # layers: from so many on a heat map takes the place of a picture each
_MOST_CLASSES, _MOST_PAIRS = 20, 15
_LEVELS = 8
_STEP = 1 / 3  # decades of SNR a column
_MOST_COLUMNS = 14


@dataclass(frozen=True)
class Cell:
    """One field: what is written in it, how dark it is (0 to 8), what the pointer shows, and whether it is marked."""

    text: str
    level: int = 0
    tip: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Grid:
    """A heat map: a row of cells for each name, under headings."""

    title: str
    note: str
    headings: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


def confusion(found: Findings) -> list[Grid]:
    """What the dense net and the pruned one take each class for; none for other targets or too many classes."""
    names, measured = found.subject.names, found.subject.found
    if not names or len(names) > _MOST_CLASSES:
        return []
    counts = {"before": _counts(found, measured.reference), "after": _counts(found, Role.PRUNED)}
    if any(of is None for of in counts.values()):
        return []
    wrong = max(int((of - of.diag().diag()).max()) for of in counts.values() if of is not None)
    grids = []
    for when, of in counts.items():
        assert of is not None
        rows = []
        for k, name in enumerate(names):
            cells = []
            for said, n in enumerate(of[k].tolist()):
                other = {w: int(c[k, said]) for w, c in counts.items() if c is not None}
                tip = f"{name} taken for {names[said]}: {other['before']:,} before, {other['after']:,} after"
                level = 0 if said == k or not n else 1 + round((_LEVELS - 1) * n / wrong)
                cells.append(Cell(f"{n:,}" if n else "", level, tip, said == k))
            rows.append((name, cells))
        model = measured.reference.value if when == "before" else Role.PRUNED.value
        note = f"{model}; rows: the class, columns: what was said"
        grids.append(Grid(f"Confusion {when} pruning", note, names, rows))
    return grids


def most_confused(found: Findings) -> Table | None:
    """Of many classes the pairs that are confused most; ``None`` where :func:`confusion` shows all."""
    names = found.subject.names
    if len(names) <= _MOST_CLASSES:
        return None
    before, after = _counts(found, found.subject.found.reference), _counts(found, Role.PRUNED)
    if before is None or after is None:
        return None
    off = after - after.diag().diag()
    order = off.flatten().argsort(descending=True, stable=True)[:_MOST_PAIRS].tolist()
    pairs = [divmod(k, len(names)) for k in order if int(off.flatten()[k])]
    rows = [(names[k], names[said], f"{int(before[k, said]):,}", f"{int(after[k, said]):,}") for k, said in pairs]
    headings = ("class", "taken for", "before", "after")
    return Table("Confusion", frozenset(headings[:2]), headings, rows, "the pairs that are confused most after pruning")


def _counts(found: Findings, role: Role) -> Tensor | None:
    """How often each class (rows) was taken for each (columns)."""
    losses = found.subject.found.losses_of(role)
    if losses.answer is None or losses.group is None:
        return None
    n = losses.classes
    return (losses.group * n + losses.answer).bincount(minlength=n * n).reshape(n, n).cpu()


def layers_grid(found: Findings, state: PosteriorState) -> Grid | None:
    """What is kept of each layer, where its groups' signal-to-noise ratios lie, the cut that was used, and how fast it
    is; ``None`` for a net of few layers."""
    masks = found.subject.masks
    if len(masks) < DEEP:
        return None
    cuts = used_cuts(state, masks)
    parts = {name: snr_ratios(state, name, mask) for name, mask in masks.items()}
    edges = _edges([snr for snr, _, _ in parts.values()], cuts)
    rows = []
    for row in found.weights:
        snr, _, kept = parts[row.name]
        fast = row.choice.speedup
        cells = [
            Cell(f"{row.kept:.1%}", round(_LEVELS * row.kept), f"{row.name}: {row.kept:.2%} of its entries kept"),
            *_histogram(row.name, snr, kept, edges, cuts.get(row.name)),
            Cell("–" if fast is None else speed(fast) or "as dense", 0, row.choice.reason),
        ]
        rows.append((row.name, cells))
    note = "a column a third of a decade of SNR, darker where more of the layer's groups lie"
    if cuts:
        note += "; the line: " + next(iter(cuts.values())).words
    headings = ("kept", *(f"{10**low:.2g}" for low in edges[:-1]), "than dense")
    return Grid("Layers", note, headings, rows)


def _edges(ratios: Sequence[np.ndarray], cuts: Mapping[str, Cut]) -> np.ndarray:
    """Columns' ends, log₁₀ SNR, such that a cut which is one for all lies between two columns."""
    shown = np.concatenate([r[r > 0] for r in ratios]) if ratios else np.array([])
    low, high = (math.log10(end) for end in ((shown.min(), shown.max()) if shown.size else (0.1, 1.0)))
    values = {cut.snr for cut in cuts.values()}
    anchor = math.log10(values.pop()) if len(values) == 1 else 0.0
    last = anchor + _STEP * math.ceil((high - anchor) / _STEP + 1e-9)
    first = max(anchor + _STEP * math.floor((low - anchor) / _STEP), last - _STEP * _MOST_COLUMNS)
    return np.arange(round((last - first) / _STEP) + 1) * _STEP + first


def _histogram(name: str, snr: np.ndarray, kept: np.ndarray, edges: np.ndarray, cut: Cut | None) -> list[Cell]:
    decades = np.log10(snr.clip(min=10 ** edges[0], max=10 ** (edges[-1] - 1e-9)))
    column = np.clip(np.digitize(decades + 1e-9, edges) - 1, 0, len(edges) - 2)
    cells = []
    for k in range(len(edges) - 1):
        n, stay = int((column == k).sum()), int(kept[column == k].sum())
        share = n / max(len(snr), 1)
        level = 0 if not n else max(1, round(_LEVELS * math.sqrt(share)))
        below = "or less, " if not k else ""
        ends = f"{below}{10 ** edges[k]:.2g} to {10 ** edges[k + 1]:.2g}"
        tip = f"{name}: {n:,} groups, {stay:,} of them kept, with SNR {ends}"
        place = None if cut is None else np.clip(np.digitize(math.log10(cut.snr) + 1e-9, edges) - 1, 0, len(edges) - 2)
        cells.append(Cell("", level, tip, place == k))
    return cells
