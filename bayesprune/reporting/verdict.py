"""The verdict: what packing the pruned posterior mean gains over the dense net, and what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.evaluation.classification import wilson_interval
from bayesprune.evaluation.scoring import Losses
from bayesprune.evaluation.verification import ModelRow, Role, Verification
from bayesprune.reporting.intervals import LEVEL, Change, mcnemar, paired_errors, paired_means

__all__ = ["ClassChange", "Verdict", "class_changes", "class_names", "judge"]


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


@dataclass(frozen=True)
class Verdict:
    """The packed posterior mean beside the dense net, on the same examples.

    Attributes:
        dense, packed: the two models' rows.
        dtype: what the dense net's parameters are, such as ``"float32"``.
        error, rmse: the change of the error (classes) or of the RMSE (real targets); the other is ``None``.
        nll: the change of the negative log-likelihood, nats per example.
        coverage: for real targets, the change of the fraction inside the central 95 % of the predictive, from the dense
            net to the posterior predictive through the same masks; else ``None``.
        worst: the class whose error rose most; ``None`` for real targets.
        rivals: for each model pruned in another way, the change of the error or RMSE from it to the packed mean.
        rival_kept: the fraction of the entries that each of them keeps.
    """

    dense: ModelRow
    packed: ModelRow
    dtype: str
    error: Change | None
    rmse: Change | None
    nll: Change
    coverage: Change | None
    worst: ClassChange | None
    rivals: dict[str, Change]
    rival_kept: dict[str, float]

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
        ece = {"before": self.dense.score.ece, "after": self.packed.score.ece}
        changes = {"error": self.error, "rmse": self.rmse, "nll": self.nll, "coverage": self.coverage}
        return {
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
            "rivals": {name: {**c.to_dict(), "kept": self.rival_kept[name]} for name, c in self.rivals.items()},
        }


def judge(net: nn.Module, found: Verification, classes: Sequence[ClassChange]) -> Verdict:
    """The verdict on what was measured of the dense ``net`` and its rivals; ``classes`` of :func:`class_changes`."""
    before, after = found.losses_of(Role.DENSE), found.losses_of(Role.PRUNED)
    coverage = None
    if before.inside is not None and (inside := found.losses_of(Role.PREDICTIVE).inside) is not None:
        coverage = paired_means(before.inside.double().mean(-1), inside.double().mean(-1))
    change = _change(before, after)
    return Verdict(
        dense=found[Role.DENSE],
        packed=found[Role.PRUNED],
        dtype=" and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in net.parameters()})),
        error=change if after.wrong is not None else None,
        rmse=change if after.wrong is None else None,
        nll=paired_means(before.nll, after.nll),
        coverage=coverage,
        worst=classes[0] if classes else None,
        rivals={rival.name: _change(found.losses[rival.name], after) for rival in found.rivals},
        rival_kept={rival.name: rival.kept for rival in found.rivals},
    )


def class_names(found: Verification, names: Sequence[str] | None) -> tuple[str, ...]:
    """The classes' names, by default their numbers; none for real targets.

    Raises:
        ValueError: another number of names than of classes.
    """
    if found.losses_of(Role.DENSE).wrong is None:
        return ()
    n = found.outputs[Role.DENSE].shape[-1]
    if names is not None and len(names) != n:
        raise ValueError(f"classes must name the net's {n} classes, got {len(names)} names")
    return tuple(str(k) for k in range(n)) if names is None else tuple(names)


def class_changes(found: Verification, names: Sequence[str]) -> tuple[ClassChange, ...]:
    """What pruning did to each class that has examples, the largest rise first; none for real targets."""
    before, after = found.losses_of(Role.DENSE).wrong, found.losses_of(Role.PRUNED).wrong
    if before is None or after is None:
        return ()
    y = found.targets.flatten()
    changes = [_class_change(names[k], before[y == k], after[y == k]) for k in y.unique().tolist()]
    return tuple(sorted(changes, key=lambda c: (-c.rise, -c.after)))


def _class_change(name: str, before: Tensor, after: Tensor) -> ClassChange:
    low, high = wilson_interval(after.sum().cpu(), torch.tensor(len(after)), LEVEL)
    rates = float(before.double().mean()), float(after.double().mean())
    return ClassChange(name, len(after), *rates, float(low), float(high), mcnemar(before, after))


def _change(before: Losses, after: Losses) -> Change:
    if before.wrong is not None and after.wrong is not None:
        return paired_errors(before.wrong, after.wrong)
    assert before.squared is not None and after.squared is not None  # one observation, one kind of losses
    return paired_means(before.squared, after.squared, root=True)
