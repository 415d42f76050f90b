"""A sweep's curve: points of error and size, as data, as a table and as a picture."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from bayesprune.evaluation.scoring import Score
from bayesprune.plots import sparsity_curve
from bayesprune.tables import Table

__all__ = ["UNPRUNED", "Curve", "Point"]

UNPRUNED = "unpruned"


@dataclass(frozen=True)
class Point:
    """One pruned net on one data set.

    Attributes:
        saliency: what ranked the groups; ``"unpruned"`` for the net before.
        net: which of several nets, from 0.
        seed: the seed of what is random: a random ranking, draws, corruptions.
        asked: the fraction of the weights to keep that was asked for.
        kept: the fraction of the matched weights' entries that is kept.
        weights: how many entries that is.
        nbytes: bytes of the tensors in the file that :func:`bayesprune.save` writes.
        score: its figures.
        worst_class: the class whose error rose most over the unpruned net's; ``None`` for real targets.
        worst_rise: by how much, a fraction.
        corruption: what was done to the images, ``None`` if nothing.
        severity: how badly, 1 to 5; 0 for clean images.
        seconds: the median time of one forward pass of the packed net; ``None`` where not timed.
        speedup: the dense net's median over its own, measured in turns.
    """

    saliency: str
    net: int
    seed: int
    asked: float
    kept: float
    weights: int
    nbytes: int
    score: Score
    worst_class: int | None = None
    worst_rise: float | None = None
    corruption: str | None = None
    severity: int = 0
    seconds: float | None = None
    speedup: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON. What does not apply is left out; a class without examples has error ``None``."""
        own = {name: value for name, value in vars(self).items() if name != "score" and value is not None}
        return own | self.score.to_dict()

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Point":
        """What :meth:`to_dict` gave, again."""
        own = {field.name: plain[field.name] for field in fields(cls) if field.name in plain and field.name != "score"}
        return cls(**own, score=Score.from_dict(plain))


@dataclass(frozen=True, repr=False)
class Curve:
    """What :func:`sweep` found. ``print`` it, :meth:`plot` it, or take :meth:`to_frame`."""

    points: tuple[Point, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"points": [point.to_dict() for point in self.points]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Curve":
        """What :meth:`to_dict` gave, again, as a run's ``sweep.json`` holds it.

        Raises:
            ValueError: it is nothing of the kind.
        """
        try:
            return cls(tuple(Point.from_dict(point) for point in plain["points"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no curve of bp.sweep: {type(error).__name__}: {error}") from error

    def to_frame(self) -> pd.DataFrame:
        """A row a point; the error of class 8, say, is the column ``error_8``, that of an output called kind
        ``error_kind``, and the size on disk ``bytes``."""
        rows = [point.to_dict() for point in self.points]
        for row in rows:
            errors = row.pop("class_errors", [])
            row.update({f"error_{k}": math.nan if e is None else e for k, e in enumerate(errors)})
            for name, part in row.pop("parts", {}).items():
                row.update({f"{figure}_{name}": x for figure, x in part.items() if isinstance(x, float)})
            row["bytes"] = row.pop("nbytes")  # pandas has an attribute of that name
        return pd.DataFrame(rows)

    def plot(self, metric: str | None = None, ax: Axes | None = None) -> Axes:
        """:func:`bayesprune.plots.sparsity_curve` of this curve's frame."""
        return sparsity_curve(self.to_frame(), metric=metric, ax=ax)

    def __str__(self) -> str:
        frame = self.to_frame().replace({"corruption": {None: "clean"}})
        keys = [c for c in ("corruption", "severity", "saliency", "asked") if c in frame and frame[c].nunique() > 1]
        parts = [] if "error" in frame else [c for c in frame if c.startswith(("error_", "rmse_"))]
        figures = ["kept", "bytes", "error", "rmse", *parts, "nll", "ece", "coverage", "worst_rise", "speedup"]
        means = frame.groupby(keys, sort=False, dropna=False)[[c for c in figures if c in frame]].mean().reset_index()
        rows = [tuple(_shown(value) for value in row) for row in means.itertuples(index=False)]
        return str(Table("Means over nets and seeds", frozenset(keys), tuple(means.columns), rows))

    __repr__ = __str__


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    return str(value)
