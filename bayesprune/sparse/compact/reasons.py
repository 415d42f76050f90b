"""Why slices that masks empty stay."""

from collections import Counter
from collections.abc import Iterator

from torch import Tensor

from bayesprune.sparse.compact.facts import Facts, Read
from bayesprune.sparse.compact.prepare import Prepared
from bayesprune.sparse.compact.solve import Solution

__all__ = ["reasons"]


def reasons(prepared: Prepared, facts: Facts, solution: Solution) -> dict[str, str]:
    """By parameter, why slices that its mask empties stay."""
    found: dict[str, Counter[str]] = {}
    reads = {step.weight: step for step in facts.steps if isinstance(step, Read)}
    axes = {(one.name, one.axis): one for one in facts.axes}
    wholes = {whole.name for whole in facts.wholes}
    for name, mask in prepared.masks.items():
        told = found.setdefault(name, Counter())
        for axis in (0, 1) if mask.dim() > 1 else ():
            empty = ~mask.transpose(0, axis).flatten(1).any(1).cpu()
            if name in facts.stays:
                told[f"of axis {axis} stay: {facts.stays[name]}"] = int(empty.sum())
            elif (name, axis) in axes:
                one = axes[name, axis]
                told.update(_each(empty, axis, one.index, one.atoms, solution))
            elif name in reads and len(reads[name].kept) > 1:
                step = reads[name]
                told.update(_each(~step.kept.any(1).flatten(), axis, step.index, step.columns, solution))
            elif name in wholes:
                told[f"of axis {axis} stay: {name} enters entry by entry"] = int(empty.sum())
            elif not any(other == name for other, _ in axes):
                told[f"of axis {axis} stay: it is not used on the example"] = int(empty.sum())
    texts = ((name, [f"{n} empty slices {why}" for why, n in each.items() if n]) for name, each in found.items())
    return {name: "; ".join(each) for name, each in texts if each}


def _each(empty: Tensor, axis: int, index: Tensor, atoms: Tensor, solution: Solution) -> Iterator[str]:
    """For each empty slice that stays the reason."""
    stays = empty[index] & ~solution.of(atoms)
    places = {int(i): int(c) for i, c in zip(index[stays], solution.classes[atoms[stays]], strict=True)}
    for one in places.values():
        yield f"of axis {axis} stay: {solution.why.get(one, 'it is needed elsewhere')}"
