"""The verdict: what packing the pruned posterior mean gains over the dense net, and what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bayesprune.evaluation.classification import wilson_interval
from bayesprune.evaluation.scoring import Losses
from bayesprune.evaluation.verification import ModelRow, Role, Verification
from bayesprune.reporting.intervals import LEVEL, Change, mcnemar, paired_errors, paired_means

__all__ = ["ClassChange", "Figure", "Verdict", "class_changes", "class_names", "judge"]


@dataclass(frozen=True)
class ClassChange:
    """What pruning did to one class.

    Attributes:
        name: the class.
        examples: how many there are of it.
        before, after: the fraction of them that the dense net and the pruned one miss.
        low, high: Wilson's 95 % interval of ``after``.
        p: McNemar's exact p-value over the class's own examples.
    """

    name: str
    examples: int
    before: float
    after: float
    low: float
    high: float
    p: float

    @property
    def rise(self) -> float:
        """How much more of it is missed."""
        return self.after - self.before


Figure = Literal["error", "rmse", "nll"]


@dataclass(frozen=True)
class Verdict:
    """The packed posterior mean beside the dense net or its control, on the same examples.

    Attributes:
        dense, packed: the two models' rows; ``dense`` is the net that the fit started at.
        control: the dense net trained on as long as the posterior was, which error, NLL and classes are compared with;
            ``None`` where the report was given none, and they are compared with ``dense``.
        behind: how many epochs less than the packed one the net had that it is compared with.
        dtype: what the dense net's parameters are, such as ``"float32"``.
        error, rmse: the change of the error (labels) or of the RMSE (numbers); the other is ``None``, and both are
            where the likelihood is one of your own, or of several outputs.
        nll: the change of the negative log-likelihood, nats per observation.
        coverage: for real targets, the change of the fraction inside the central 95 % of the predictive, from the dense
            net to the posterior predictive through the same masks; else ``None``.
        worst: the class whose error rose most; ``None`` for real targets.
        rivals: for each model pruned in another way, the change of the error, RMSE or (where there is neither) NLL from
            it to the packed mean.
        rival_kept: the fraction of the entries that each of them keeps.
        parts: of several outputs, which figure of each is judged, and its change.
    """

    dense: ModelRow
    control: ModelRow | None
    behind: int
    packed: ModelRow
    dtype: str
    error: Change | None
    rmse: Change | None
    nll: Change
    coverage: Change | None
    worst: ClassChange | None
    rivals: dict[str, Change]
    rival_kept: dict[str, float]
    parts: dict[str, tuple[Figure, Change]] = field(default_factory=dict)

    @property
    def reference(self) -> ModelRow:
        """The row that error, NLL, calibration and classes are compared with."""
        return self.dense if self.control is None else self.control

    @property
    def smaller(self) -> float:
        """Bytes of the dense net's file over those of the packed net's."""
        assert self.dense.nbytes and self.packed.nbytes  # both were saved
        return self.dense.nbytes / self.packed.nbytes

    @property
    def faster(self) -> float:
        """The dense net's latency over the packed net's, measured in turns."""
        assert self.packed.speedup is not None  # both were timed
        return self.packed.speedup

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON. What does not apply is left out."""
        ece = {"before": self.reference.score.ece, "after": self.packed.score.ece}
        changes = {"error": self.error, "rmse": self.rmse, "nll": self.nll, "coverage": self.coverage}
        return {
            "against": self.reference.name,
            "behind": self.behind,
            "smaller": {
                "times": self.smaller,
                "before": self.dense.nbytes,
                "after": self.packed.nbytes,
                "dtype": self.dtype,
            },
            "faster": {"times": self.faster, "before": self.dense.seconds, "after": self.packed.seconds},
            **{name: change.to_dict() for name, change in changes.items() if change is not None},
            **({"ece": ece} if self.error is not None else {}),
            **({"worst_class": {**vars(self.worst), "rise": self.worst.rise}} if self.worst is not None else {}),
            **({"parts": {n: {"figure": f, **c.to_dict()} for n, (f, c) in self.parts.items()}} if self.parts else {}),
            "rivals": {name: {**c.to_dict(), "kept": self.rival_kept[name]} for name, c in self.rivals.items()},
        }


def judge(net: nn.Module, found: Verification, classes: Sequence[ClassChange], epochs: int) -> Verdict:
    """The verdict on what was measured of the dense ``net`` and its rivals; ``classes`` of :func:`class_changes`.

    ``epochs`` are those of the posterior, which a control has had too and the dense net has not.
    """
    controlled = found.reference is Role.CONTROL
    before, after = found.losses_of(found.reference), found.losses_of(Role.PRUNED)
    coverage = None
    if before.inside is not None and (inside := found.losses_of(Role.PREDICTIVE).inside) is not None:
        coverage = paired_means(before.inside.double().mean(-1), inside.double().mean(-1))
    figure, change = _change(before, after)
    return Verdict(
        dense=found[Role.DENSE],
        control=found[Role.CONTROL] if controlled else None,
        behind=0 if controlled else epochs,
        packed=found[Role.PRUNED],
        dtype=" and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in net.parameters()})),
        error=change if figure == "error" else None,
        rmse=change if figure == "rmse" else None,
        nll=paired_means(before.nll, after.nll),
        coverage=coverage,
        worst=classes[0] if classes else None,
        rivals={rival.name: _change(found.losses[rival.name], after)[1] for rival in found.rivals},
        rival_kept={rival.name: rival.kept for rival in found.rivals},
        parts={name: _change(part, after.parts[name]) for name, part in before.parts.items()},
    )


def class_names(found: Verification, names: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes, or of several labels an example, by default their numbers; none for other targets.

    Raises:
        ValueError: another number of names than of classes.
    """
    n = found.losses_of(Role.DENSE).classes
    if names is not None and n and len(names) != n:
        raise ValueError(f"classes must name the net's {n} classes, got {len(names)} names")
    return tuple(str(k) for k in range(n)) if names is None or not n else tuple(names)


def class_changes(found: Verification, names: Sequence[str]) -> tuple[ClassChange, ...]:
    """What pruning did to each class that has examples, the largest rise first; none where there are no classes."""
    dense = found.losses_of(found.reference)
    before, after, group = dense.wrong, found.losses_of(Role.PRUNED).wrong, dense.group
    if before is None or after is None or group is None:
        return ()
    changes = [_class_change(names[k], before[group == k], after[group == k]) for k in group.unique().tolist()]
    return tuple(sorted(changes, key=lambda c: (-c.rise, -c.after)))


def _class_change(name: str, before: Tensor, after: Tensor) -> ClassChange:
    low, high = wilson_interval(after.sum().cpu(), torch.tensor(len(after)), LEVEL)
    rates = float(before.double().mean()), float(after.double().mean())
    return ClassChange(name, len(after), *rates, float(low), float(high), mcnemar(before, after))


def _change(before: Losses, after: Losses) -> tuple[Figure, Change]:
    """The figure by which two models are judged, and how it changes: the error, else the RMSE, else the NLL."""
    if before.wrong is not None and after.wrong is not None:
        return "error", paired_errors(before.wrong, after.wrong)
    if before.squared is not None and after.squared is not None:
        return "rmse", paired_means(before.squared, after.squared, root=True)
    return "nll", paired_means(before.nll, after.nll)
