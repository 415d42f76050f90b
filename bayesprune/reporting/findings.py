"""Findings of a report as plain data: the source of its tables, page and pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from torch import Tensor

from bayesprune.evaluation.verification import ModelRow, Verification
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.reporting.cautions import Caution
from bayesprune.reporting.flips import Flip
from bayesprune.reporting.verdict import ClassChange, Verdict
from bayesprune.reporting.weights import WeightRow
from bayesprune.sparse import Plan
from bayesprune.sparse.saving.byte_counts import ByteCount

__all__ = ["Findings", "Subject"]


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Subject:
    """What a report's pictures are made from: the net with its posterior, the masks, what was measured, the names of
    the classes, none for real targets, and the images whose answer pruning changed."""

    bnet: BayesianNet
    masks: Mapping[str, Tensor]
    found: Verification
    names: tuple[str, ...]
    flips: tuple[Flip, ...] = ()


@dataclass(frozen=True, repr=False)
class Findings:
    """What :func:`bayesprune.report` found, as it was measured.

    Attributes:
        verdict: what packing gains over the dense net, what it costs, and whom.
        warnings: what to beware of.
        weights: what was fitted, what stays, and how it runs.
        models: what was compared.
        classes: what pruning did to each class, the largest rise first; empty for real targets.
        sizes: the bytes of each pruned weight, of all else and of the whole: dense, packed, and in a compressed file.
        plan: how weights run; hand it to :func:`bayesprune.export`.
        batch: examples in the batch that was timed.
        draws, seed: of the posterior predictive.
        made: when, in UTC, to the second.
    """

    verdict: Verdict
    warnings: tuple[Caution, ...]
    weights: tuple[WeightRow, ...]
    models: tuple[ModelRow, ...]
    classes: tuple[ClassChange, ...]
    sizes: tuple[ByteCount, ...]
    plan: Plan
    batch: int
    draws: int
    seed: int | None
    subject: Subject = field(repr=False, compare=False)
    made: datetime = field(default_factory=_now, compare=False)
