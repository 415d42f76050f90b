"""The largest set of channels that can be removed without changing the net's results."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from bayesprune.sparse.compact.atoms import distinct
from bayesprune.sparse.compact.facts import Facts, Flow, Groups, Limit, Mix, Parts, Read, Rect, Uncut

__all__ = ["Solution", "box", "classes_of", "keep_dropped", "solve"]

_ROUNDS = 30
_Stay = Callable[[Tensor, str], None]


@dataclass
class Solution:
    """The channels to remove, by class of atoms that go together, and why unneeded ones stay.

    Args:
        classes: the class of each atom.
        gone: for each class, whether it goes.
        carriers: for each weight the columns that stand in for constant ones, by the family of these.
        why: for classes that stay, the reason.
    """

    classes: Tensor
    gone: Tensor
    carriers: dict[str, dict[int, int]] = field(default_factory=dict)
    why: dict[int, str] = field(default_factory=dict)

    def of(self, atoms: Tensor) -> Tensor:
        """Whether each of ``atoms`` goes."""
        return self.gone[self.classes[atoms]]


def classes_of(facts: Facts) -> Tensor:
    """The number of each atom's class: of those that go together."""
    count = facts.atoms.count
    if not facts.ties:
        return torch.arange(count)
    a, b = (torch.cat([tie[i] for tie in facts.ties]).numpy() for i in (0, 1))
    _, labels = connected_components(coo_matrix((np.ones(len(a), dtype=bool), (a, b)), shape=(count, count)), False)
    return torch.from_numpy(labels.astype(np.int64))


def solve(facts: Facts, *more: Uncut) -> Solution:
    """Find the largest set of atoms that can be removed.

    Args:
        facts: what was found.
        more: further limits.
    """
    classes = classes_of(facts)
    number = int(classes.max()) + 1 if len(classes) else 0
    solution = Solution(classes, torch.zeros(number, dtype=torch.bool))
    limits = [*facts.limits, *more]
    pinned = _pinned(facts, solution)
    rounds = 0
    while True:
        before, rounds = solution.gone, rounds + 1
        needed = _needed(facts, solution)
        able = _able(facts, solution, needed, ~pinned)
        solution.gone = _limited(facts, limits, solution, able)
        if torch.equal(before, solution.gone):
            if not _choose_carrier(facts, solution, needed, pinned):
                break
            solution.gone, rounds = torch.zeros_like(before), 0
        elif rounds > _ROUNDS:  # which of several slices stays may take turns
            pinned |= before & ~solution.gone
    told, solution.why = solution.why, {}  # what held in an earlier round may hold no longer
    _pinned(facts, solution)
    _able(facts, solution, needed, ~pinned)
    _limited(facts, limits, solution, able)
    solution.why = {**told, **solution.why}
    return solution


def keep_dropped(facts: Facts) -> None:
    """Keep results that a forward drops (training may use them), but where they are of a stream that is needed."""
    classes = classes_of(facts)
    needed = _needed(facts, Solution(classes, torch.zeros(facts.atoms.count, dtype=torch.bool)))
    for atoms in facts.dropped:
        if not bool(torch.isin(classes[atoms], classes[needed]).any()):
            facts.pin(atoms, "its result is dropped in eval mode, and may be used in training")
            facts.needed.append(atoms)


def _pinned(facts: Facts, solution: Solution) -> Tensor:
    """The classes that stay whatever the masks, and why."""
    classes = solution.classes
    pinned = torch.zeros_like(solution.gone)

    def pin(own: Tensor, reason: str) -> None:
        for one in own[~pinned[own]].unique().tolist():
            solution.why.setdefault(one, reason)
        pinned[own] = True

    for atoms, reason in facts.pins:
        pin(classes[atoms], reason)
    computed = torch.ones(facts.atoms.count, dtype=torch.bool)
    free = [*((one.labels.flatten(), f"{one.name} enters entry by entry") for one in facts.wholes), *facts.free]
    for atoms, _ in free:  # what meets no channel may be needed at another size
        computed[atoms] = False
    follows = torch.zeros_like(solution.gone)
    follows[classes[computed]] = True
    for atoms, reason in free:
        own = classes[atoms]
        pin(own[~follows[own]], reason)
    return pinned


def _read(step: Read, solution: Solution, needed: Tensor) -> Tensor:
    """Whether each column is read by a row that is needed and stays."""
    live = needed[step.rows] & ~solution.of(step.rows)
    return (step.kept & live.view(step.kept.shape[:2])[..., None]).any(1).flatten()


def _needed(facts: Facts, solution: Solution) -> Tensor:
    """For each atom whether the net's results, what goes aside, depend on it."""
    needed = torch.zeros(facts.atoms.count, dtype=torch.bool)
    for atoms in facts.needed:
        needed[atoms] = True
    for step in reversed(facts.steps):
        if isinstance(step, Mix):
            if bool(needed[step.out].any()):
                needed[step.into] = True
        elif isinstance(step, Flow):
            through = needed[step.out] if step.through is None else needed[step.out] & step.through
            needed[step.into[through]] = True
        else:
            used = _read(step, solution, needed)
            folded = solution.of(step.columns) & ~step.constant[step.index].isnan()
            used[_carriers(step, solution)] = True
            needed[step.columns[used[step.index] & ~folded]] = True
    return needed


def _able(facts: Facts, solution: Solution, needed: Tensor, able: Tensor) -> Tensor:
    """For each class whether each product that reads it can do without."""
    able = able.clone()
    for step in facts.steps:
        if not isinstance(step, Read):
            continue
        constant = step.constant
        fine = (constant == 0) | (~constant.isnan() & (step.takes | step.carries))
        bad = _read(step, solution, needed) & ~fine
        bad[_carriers(step, solution)] = True
        own = solution.classes[step.columns[bad[step.index]]].unique()
        for one in own[able[own]].tolist():
            solution.why.setdefault(one, f"{step.path or 'the net'} reads it where it is no constant")
        able[own] = False
    return able


def _carriers(step: Read, solution: Solution) -> list[int]:
    return list(solution.carriers.get(step.weight, {}).values())


def _choose_carrier(facts: Facts, solution: Solution, needed: Tensor, pinned: Tensor) -> bool:
    """See that a product whose constants fold into no bias keeps one of each family; False where all do."""
    for step in facts.steps:
        if not isinstance(step, Read) or not step.carries:
            continue
        own = solution.carriers.setdefault(step.weight, {})
        live = ~step.constant.isnan() & (step.constant != 0) & ~step.takes
        column_class = torch.zeros(len(step.constant), dtype=torch.int64)
        column_class[step.index] = solution.classes[step.columns]
        gone, families = solution.gone[column_class], step.families
        lost = live & gone & _read(step, solution, needed)
        lacking = [one for one in families[lost].unique().tolist() if one not in own]
        for family in lacking:
            mine = live & (families == family)
            among = mine & ~gone if bool((mine & ~gone).any()) else mine & gone
            carrier = own[family] = int(torch.where(among, step.constant.abs(), -1.0).argmax())
            one = int(column_class[carrier])
            solution.why[one] = f"{step.path or 'the net'} has it stand in for other constants, as its padding is zeros"
            pinned[one] = True
        if lacking:
            return True
    return False


def _limited(facts: Facts, limits: list[Limit], solution: Solution, able: Tensor) -> Tensor:
    """The classes of ``able`` that can go without leaving a tensor ragged or empty."""
    gone = able.clone()

    def stay(classes: Tensor, reason: str) -> None:
        for one in classes[gone[classes]].unique().tolist():
            solution.why.setdefault(one, reason)
        gone[classes] = False

    while True:
        before = int(gone.sum())
        for limit in limits:
            if isinstance(limit, Groups):
                _limit_groups(limit, solution.classes, gone, stay)
            else:
                classes = solution.classes[distinct(limit.labels)]
                if bool(gone[classes].any()):
                    _limit_box(limit, classes, gone, stay)
        for axis in facts.axes:
            classes = solution.classes[axis.atoms]
            if bool(gone[classes].all()):
                stay(classes[axis.index == 0], "one has to be left")
        for whole in facts.wholes:
            _limit_box(Rect(whole.labels, whole.name), solution.classes[distinct(whole.labels)], gone, stay)
        if int(gone.sum()) == before:
            return gone


def box(gone: Tensor) -> list[Tensor]:
    """By axis, the slices in which something stays."""
    stays = ~gone
    axes = range(stays.dim())
    return [stays.transpose(0, axis).flatten(1).any(1) if stays.dim() > 1 else stays for axis in axes]


def _limit_box(limit: Rect | Uncut | Parts, classes: Tensor, gone: Tensor, stay: _Stay) -> None:
    mask = gone[classes]
    if not bool(mask.any()):
        return
    if bool(mask.all()):
        stay(classes.flatten()[:1], "one has to be left")
        return
    kept, reason = box(mask), f"others beside it in {limit.path or 'the net'} stay"
    if isinstance(limit, Uncut):
        kept[limit.axis], reason = torch.ones_like(kept[limit.axis]), limit.reason
    elif isinstance(limit, Parts):
        lost = ~kept[limit.axis].view(limit.count, -1)
        extra = lost & (lost.cumsum(1) > int(lost.sum(1).min()))
        kept[limit.axis] = kept[limit.axis] | extra.flatten()
    ragged = mask.clone()
    for axis, own in enumerate(kept):
        sides = [1] * mask.dim()
        sides[axis] = -1
        ragged &= own.view(sides)
    if bool(ragged.any()):
        stay(classes[ragged], reason)


def _limit_groups(limit: Groups, classes: Tensor, gone: Tensor, stay: _Stay) -> None:
    into, out = gone[classes[limit.columns]], gone[classes[limit.rows]]
    whole = into.all(1) & out.all(1)
    if bool(whole.all()):
        stay(torch.cat([classes[limit.columns[0]], classes[limit.rows[0]]]), "one has to be left")
        return
    for mask, atoms in ((into, limit.columns), (out, limit.rows)):
        part = mask[~whole]
        fewest = min(int(part.sum(1).min()), part.shape[1] - 1)
        extra = mask & (mask.cumsum(1) > fewest) & ~whole[:, None]
        if bool(extra.any()):
            stay(classes[atoms[extra]], f"the groups of {limit.path} stay equal")
