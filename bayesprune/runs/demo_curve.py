"""The demo's curve: error against the size of what each method packs at each budget."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from bayesprune.evaluation.prediction import evaluating
from bayesprune.evaluation.verification import ModelRow, Role, density, on_disk, score_forward
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.reporting import Curve, Point, Report
from bayesprune.sparse import export

__all__ = ["Fitted", "More", "curve_of"]

Masks = Mapping[str, Tensor]
Fitted = tuple[Mapping[str, Tensor], Masks]
"""A pruned net: its values by name, and its masks."""
More = tuple[str, float, BayesianNet, Masks]
"""What fitted a net, to what budget, the net, and its masks."""


def curve_of(
    found: Report, keep: float, more: Sequence[More], loader: Iterable[Any], example: Tensor, seed: int
) -> Curve:
    """The report's own nets, fitted to the budget ``keep``, and ``more`` of them, each packed, saved and scored."""
    weights = sum(mask.numel() for mask in found.subject.masks.values())

    def point(name: str, asked: float, row: ModelRow) -> Point:
        assert row.nbytes is not None  # all were saved
        kept, count = row.kept, round(row.kept * weights)
        return Point(name, 0, seed, asked, kept, count, row.nbytes, row.score, seconds=row.seconds, speedup=row.speedup)

    points = [point("unpruned", 1.0, found.verdict.reference), point("posterior", keep, found.verdict.packed)]
    points += [point(row.name, keep, row) for row in found.models if row.role is Role.TRAINED]
    for name, asked, bnet, masks in more:
        packed = export(bnet.net, bnet.means(), masks, example=example)
        with evaluating(bnet):
            score = score_forward(bnet, packed, loader)
        count = sum(int(mask.sum()) for mask in masks.values())
        points.append(Point(name, 0, seed, asked, density(masks), count, on_disk(packed), score))
    return Curve(tuple(points))
