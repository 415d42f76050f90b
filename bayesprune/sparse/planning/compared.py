"""Pack a net by a plan, and hold it against the masked dense one: what differs stays masked dense."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesprune._copies import copied
from bayesprune.layout import layout_of
from bayesprune.sparse.layers.composite import parts_of
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.planning.apply import apply
from bayesprune.sparse.planning.plan import Choice
from bayesprune.sparse.surgery.composites import calls_on
from bayesprune.sparse.surgery.reference import Reference
from bayesprune.sparse.surgery.strides import make_contiguous

__all__ = ["Packed", "packed_and_compared"]

_MOST = 8  # weights that are found out one by one, before the rest is given up


@dataclass(frozen=True)
class Packed:
    """A net with packed weights, and the dense one beside it.

    Args:
        net: the net.
        names: the weights that are packed in it.
        reference: the dense net with its results: of weights that are held in integers, with their rounded values.
        why_not: why the two do not compute the same; None where they do.
        finished: whether what was to be done to the net as well is done, and compared.
    """

    net: nn.Module
    names: Sequence[str]
    reference: Reference
    why_not: str | None
    finished: bool = False


def packed_and_compared(
    masked: Callable[[], nn.Module],
    choices: Mapping[str, Choice],
    masks: Mapping[str, Tensor],
    example: object,
    variances: Mapping[str, Tensor] | None = None,
    finish: Callable[[nn.Module], None] | None = None,
) -> Packed:
    """The net with the weights packed that ``choices`` have packed and that leave its results as they are.

    Args:
        masked: makes the masked dense net, each time anew.
        choices: what becomes of each masked weight.
        masks: bool, True where a weight stays.
        example: an input batch, or a tuple or dict of arguments.
        variances: how uncertain weights are that are rounded to integers.
        finish: what else is done to the packed net, in place. Where that alters no result all is compared at once; else
            it is left to the caller.

    Warns:
        UserWarning: weights that stay masked dense, with what differed.
    """
    packed = [name for name, choice in choices.items() if not choice.format.is_dense]

    def attempt(names: Sequence[str], finish: Callable[[nn.Module], None] | None = None) -> Packed:
        dense = masked()
        twin = copied(dense, {x: _alias(x) for x in (*dense.parameters(), *dense.buffers())})
        chosen = {name: choices[name] for name in names}
        net = apply(dense, chosen, masks, calls_on(dense, example, names), variances)
        _round(twin, net, names)
        reference = Reference.of(twin, example)
        if finish is not None:
            try:
                finish(net)
            except Exception as error:  # as raised by a forward of the user's, which is found out below
                return Packed(net, names, reference, str(error))
            return Packed(net, names, reference, reference.why_not(net) or reference.why_not_training(net), True)
        why = reference.why_not(net)
        if why is not None and make_contiguous(net, twin, example):
            why = reference.why_not(net)
        return Packed(net, names, reference, why)

    for last in (finish, None) if finish is not None else (None,):
        whole = attempt(packed, last)
        if whole.why_not is None:
            return whole
        del whole
    refused: dict[str, str] = {}

    def grown(kept: list[str], names: list[str]) -> list[str]:
        """``kept`` and those of ``names`` that can join it."""
        if not names or len(refused) >= _MOST:
            refused.update(dict.fromkeys(names, "it was not tried alone, for many others do so"))
            return kept
        why = attempt([*kept, *names]).why_not
        if why is None:
            return [*kept, *names]
        if len(names) == 1:
            refused[names[0]] = why
            return kept
        half = len(names) // 2
        return grown(grown(kept, names[:half]), names[half:])

    kept = grown([], packed)
    found = attempt(kept)
    if found.why_not is not None:
        raise ValueError(f"the net cannot be exported: even without packed weights, {found.why_not}")
    told = "; ".join(f"{name!r}: {why}" for name, why in refused.items())
    warnings.warn(f"these stay masked dense, for packed the net is another: {told}", stacklevel=3)
    return found


def _alias(x: Tensor) -> Tensor:
    """Another tensor over the same memory, which may be laid out anew without the first."""
    return nn.Parameter(x.detach(), x.requires_grad) if isinstance(x, nn.Parameter) else x.detach()


@torch.no_grad()
def _round(dense: nn.Module, packed: nn.Module, names: Sequence[str]) -> None:
    """Give the weights ``names`` of ``dense`` the values that integers of ``packed`` stand for, in place."""
    for name in names:
        owners = [packed.get_submodule(part.rpartition(".")[0]) for part in parts_of(packed, name)]
        if any(isinstance(owner, SparseLinear) and owner.scale is not None for owner in owners):
            rows = [owner.weight for owner in owners]
            whole = torch.cat([row for row in rows if isinstance(row, Tensor)])
            dense.get_parameter(name).copy_(whole.T if layout_of(dense, name).transposed else whole)
