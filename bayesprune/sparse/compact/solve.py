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

__all__ = ["Solution", "box", "solve"]

_ROUNDS = 30
_Stay = Callable[[Tensor, str], None]


@dataclass
class Solution:
    """The channels to remove, by class of atoms that go together, and why unneeded ones stay.

    Args:
        classes: the class of each atom.
        gone: for each class, whether it goes.
        carriers: for each product the column that stands in for constant ones.
        why: for classes that stay, the reason.
    """

    classes: Tensor
    gone: Tensor
    carriers: dict[Read, int] = field(default_factory=dict)
    why: dict[int, str] = field(default_factory=dict)

    def of(self, atoms: Tensor) -> Tensor:
        """Whether each of ``atoms`` goes."""
        return self.gone[self.classes[atoms]]


def _classes(facts: Facts) -> Tensor:
    count = facts.atoms.count
    if not facts.ties:
        return torch.arange(count)
    a, b = (torch.cat([tie[i] for tie in facts.ties]).numpy() for i in (0, 1))
    _, labels = connected_components(coo_matrix((np.ones(len(a), dtype=bool), (a, b)), shape=(count, count)), False)
    return torch.from_numpy(labels.astype(np.int64))


def solve(facts: Facts, *more: Uncut, daring: bool = False) -> Solution:
    """Find the largest set of atoms that can be removed.

    Args:
        facts: what was found.
        more: further limits.
        daring: as if operators that are not known did not mind constants, and what nothing needs.
    """
    classes = _classes(facts)
    number = int(classes.max()) + 1 if len(classes) else 0
    solution = Solution(classes, torch.zeros(number, dtype=torch.bool))
    pinned = torch.ones(number, dtype=torch.bool)
    computed = torch.ones(facts.atoms.count, dtype=torch.bool)
    for whole in facts.wholes:  # entries that meet no channel may be needed at another size
        computed[whole.labels.flatten()] = False
    pinned[classes[computed]] = False
    needed = _needed(facts, solution)
    unknown = [
        (atoms[needed[atoms] & facts.atoms.values(atoms).isnan()] if daring else atoms, reason)
        for atoms, reason in facts.unknown
    ]
    for atoms, reason in [*facts.pins, *unknown]:
        own = classes[atoms].unique()
        for one in own[~pinned[own]].tolist():
            solution.why.setdefault(one, reason)
        pinned[own] = True
    limits = [*facts.limits, *more]
    rounds = 0
    while True:
        before, rounds = solution.gone, rounds + 1
        needed = _needed(facts, solution)
        able = _able(facts, solution, needed, ~pinned)
        solution.gone = _limited(facts, limits, solution, able)
        if torch.equal(before, solution.gone):
            if not _choose_carrier(facts, solution, needed, pinned):
                return solution
            solution.gone, rounds = torch.zeros_like(before), 0
        elif rounds > _ROUNDS:  # which of several slices stays may take turns
            pinned |= before & ~solution.gone


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
            if step in solution.carriers:
                used[solution.carriers[step]] = True
            needed[step.columns[used[step.index] & ~folded]] = True
    return needed


def _able(facts: Facts, solution: Solution, needed: Tensor, able: Tensor) -> Tensor:
    """For each class whether each product that reads it can do without."""
    able = able.clone()
    for step in facts.steps:
        if not isinstance(step, Read):
            continue
        constant = step.constant
        fine = (constant == 0) | (~constant.isnan() & (step.carries | step.takes_constants))
        bad = _read(step, solution, needed) & ~fine
        if step in solution.carriers:
            bad[solution.carriers[step]] = True
        own = solution.classes[step.columns[bad[step.index]]].unique()
        for one in own[able[own]].tolist():
            solution.why.setdefault(one, f"{step.path or 'the net'} reads it where it is no constant")
        able[own] = False
    return able


def _choose_carrier(facts: Facts, solution: Solution, needed: Tensor, pinned: Tensor) -> bool:
    """See that a product whose constants fold into no bias keeps one of them; False where all such products do."""
    for step in facts.steps:
        if not isinstance(step, Read) or step.takes_constants or not step.carries or step in solution.carriers:
            continue
        live = ~step.constant.isnan() & (step.constant != 0)
        column_class = torch.zeros(len(step.constant), dtype=torch.int64)
        column_class[step.index] = solution.classes[step.columns]
        gone = solution.gone[column_class]
        if not bool((live & gone & _read(step, solution, needed)).any()):
            continue
        stays = live & ~gone
        among = stays if bool(stays.any()) else live & gone
        carrier = int(torch.where(among, step.constant.abs(), -1.0).argmax())
        solution.carriers[step] = carrier
        one = int(column_class[carrier])
        solution.why[one] = f"{step.path or 'the net'} has it stand in for other constants, as its padding is zeros"
        pinned[one] = True
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
