"""Parameters that are used several times: what goes in one use goes in all."""

import torch
from torch import Tensor

from bayesprune.sparse.compact.facts import Axis, Facts, Read, Spread
from bayesprune.sparse.compact.solve import classes_of

__all__ = ["tie_spreads", "tie_uses"]


def tie_uses(facts: Facts) -> None:
    """Tie the channels of all uses of a parameter; what only some of the uses allow stays, or moves nowhere."""
    axes: dict[tuple[str, int], list[Axis]] = {}
    for axis in facts.axes:
        axes.setdefault((axis.name, axis.axis), []).append(axis)
    for each in axes.values():
        _tie(facts, [one.index for one in each], [one.atoms for one in each])
    entered = {whole.name for whole in facts.wholes}
    for (name, _), each in axes.items():
        reason = facts.stays.get(name) or (f"{name} is used in two ways" if name in entered else None)
        if reason is not None:
            for one in each:
                facts.pin(one.atoms, reason)
    for whole in facts.wholes:
        reason = facts.stays.get(whole.name)
        if reason is not None or any((whole.name, axis) in axes for axis in range(whole.labels.dim())):
            facts.pin(whole.labels.flatten(), reason or f"{whole.name} is used in two ways")
    _agree(facts)


def tie_spreads(facts: Facts) -> None:
    """Tie what is spread over axes to what it meets, where this is of one channel; else it stays."""
    pending = facts.spreads
    while pending:
        classes = classes_of(facts)
        apart = [one for one in pending if not _goes_along(one, classes)]
        for one in pending:
            if not any(one is other for other in apart):
                facts.tie(one.out, one.own)
        if len(apart) == len(pending):
            break
        pending = apart
    for one in pending:
        facts.pin(one.own, "it is spread over channels")
        facts.limits += one.limits


def _goes_along(spread: Spread, classes: Tensor) -> bool:
    """Whether each entry meets one channel, and not all of them the same, which a table of all layers would tie."""
    own, place = spread.own.unique(return_inverse=True)
    met = torch.unique(place * (int(classes.max()) + 1) + classes[spread.out])
    return len(met) == len(own) and (len(own) == 1 or len(classes[spread.out].unique()) > 1)


def _tie(facts: Facts, index: list[Tensor], atoms: list[Tensor]) -> None:
    if len(index) > 1:
        facts.tie_by(torch.cat(index), torch.cat(atoms), int(max(one.max() for one in index)) + 1)


def _agree(facts: Facts) -> None:
    """Constants move only where all uses of a weight, and of a bias, find the same."""
    reads = [step for step in facts.steps if isinstance(step, Read)]
    by_weight: dict[str, list[Read]] = {}
    by_bias: dict[str, set[str]] = {}
    for read in reads:
        by_weight.setdefault(read.weight, []).append(read)
        if read.bias is not None:
            by_bias.setdefault(read.bias, set()).add(read.weight)
    for each in by_weight.values():
        first = each[0]
        if len(each) == 1:
            continue
        alike = all(one.kept.shape == first.kept.shape and one.out_axis == first.out_axis for one in each)
        if alike:
            _tie(facts, [one.index for one in each], [one.columns for one in each])
        if not alike:
            for one in each:
                one.constant = torch.where(one.constant == 0, 0.0, torch.nan)
            continue
        same = torch.ones(len(first.constant), dtype=torch.bool)
        for one in each:
            same &= (one.constant == first.constant) & (one.shapes == first.shapes)
        folds, bias = all(one.folds for one in each), first.bias
        bias = bias if all(one.bias == bias for one in each) else None
        for one in each:
            one.constant = torch.where(same, one.constant, torch.nan)
            one.shapes, one.folds, one.bias = torch.where(same, one.shapes, 0), folds, bias
    for read in reads:
        if read.bias is not None and len(by_bias[read.bias]) > 1:
            read.bias = None
