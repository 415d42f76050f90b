"""``compact``, the public function, and its result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bayesprune._copies import on_its_own
from bayesprune._turns import in_turn
from bayesprune.sparse.checks import run_example
from bayesprune.sparse.compact import attention, channels, moves, places, products, within  # noqa: F401  (their rules)
from bayesprune.sparse.compact.cut import Change
from bayesprune.sparse.compact.graph import noted, trace
from bayesprune.sparse.compact.pointwise import pointwise
from bayesprune.sparse.compact.prepare import prepare
from bayesprune.sparse.compact.reasons import reasons
from bayesprune.sparse.compact.settle import settle
from bayesprune.sparse.compact.solve import keep_dropped
from bayesprune.sparse.compact.uses import tie_spreads, tie_uses
from bayesprune.sparse.compact.walk import Walk
from bayesprune.sparse.layers.composite import parts_of
from bayesprune.sparse.surgery.masked import masked_copy

__all__ = ["Compacted", "compact"]


@dataclass(frozen=True)
class Compacted:
    """A physically smaller net, its masks, and what changed.

    Args:
        net: the user's own classes in eval mode, with smaller tensors; attention of which heads went calls its layers.
        masks: what is left of the masks, in the new shapes; those that would keep all are left out.
        changes: by parameter or buffer, its old and new shape and what stayed.
        reasons: by parameter, why slices that its mask empties stayed.
    """

    net: nn.Module
    masks: Mapping[str, Tensor]
    changes: Mapping[str, Change] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def now(self, name: str) -> tuple[str, ...]:
        """What the parameter ``name`` is called now: itself, or what it was taken apart into, one below the other."""
        return parts_of(self.net, name)

    def cut(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is left of tensors that are named and shaped as the net's were, such as posterior variances.

        By the names of today: of attention that lost heads, ``in_proj_weight`` is ``in_proj.weight``. One of which the
        smaller tensor's entries cannot be taken (of a grouped convolution that lost inputs) is left out.

        Raises:
            ValueError: another name or shape than the net had.
        """
        own = {**dict(self.net.named_parameters(remove_duplicate=False)), **dict(self.net.named_buffers())}
        before = {name: tuple(x.shape) for name, x in own.items()}
        before |= {name: change.old for name, change in self.changes.items() if change.old is not None}
        found = {}
        for name, x in tensors.items():
            parts = self.now(name)
            sides = [before.get(part, ()) for part in parts]
            expected = (sum(side[0] for side in sides), *sides[0][1:]) if all(sides) else sides[0]
            if parts[0] not in before or tuple(x.shape) != expected:
                raise ValueError(f"{name!r} of shape {tuple(x.shape)} is not of the net as it was before compact")
            rows = x.split([side[0] for side in sides]) if len(parts) > 1 else [x]
            for part, mine in zip(parts, rows, strict=True):
                left = self._left(part, mine)
                if left is not None:
                    found[part] = left
        return found

    def _left(self, name: str, x: Tensor) -> Tensor | None:
        change = self.changes.get(name)
        for axis, kept in enumerate(change.kept if change is not None else ()):
            if kept is not None and max(kept, default=-1) < x.shape[axis]:
                x = x.index_select(axis, torch.tensor(kept, dtype=torch.int64, device=x.device))
        return x if change is None or tuple(x.shape) == change.new else None

    def __str__(self) -> str:
        rows = [("parameter", "was", "is")]
        rows += [
            (name, "none" if change.old is None else _sides(change.old), _sides(change.new))
            for name, change in self.changes.items()
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *(f"{name}: {why}" for name, why in self.reasons.items())])


def _sides(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "1"


@in_turn
def compact(
    net: nn.Module,
    means: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    *,
    example: object,
    skip: Sequence[str] = (),
) -> Compacted:
    """A copy of ``net`` without the channels, hidden units and heads that ``means * masks`` leave empty.

    What goes: outputs whose weights are all masked, so that they are constants, which are worked into the next bias (or
    into one channel that stands in for all where zeros of a padding come between); and what nothing reads with a
    weight that is kept. What does not go although it is empty is named with the reason in ``reasons``: it is summed
    with what stays, or LayerNorm takes statistics over it, or it is the net's output.

    Args:
        net: the dense net; it is copied and not touched.
        means: values of parameters and buffers by their names; what is missing comes from ``net``.
        masks: bool, True where a weight stays, in each weight's own shape.
        example: an input batch, or a tuple or dict of arguments, to follow the graph with; other sizes work afterwards
            as they did before.
        skip: globs over module paths; they stay as they are.

    Returns:
        The net in eval mode, whose results are those of the masked dense net up to roundings.

    Raises:
        ValueError: masks, means or example that do not fit the net, or a net whose graph cannot be followed: the
            module is named.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    >>> masks = {"0.weight": torch.tensor([True, False, True])[:, None].expand(3, 4)}
    >>> small = compact(net, {}, masks, example=torch.ones(1, 4))
    >>> print(small)
    parameter  was  is
    0.weight   3×4  2×4
    0.bias     3    2
    2.weight   2×3  2×2
    2.bias     2    2
    >>> small.net
    Sequential(
      (0): Linear(in_features=4, out_features=2, bias=True)
      (1): Tanh()
      (2): Linear(in_features=2, out_features=2, bias=True)
    )
    """
    masked = masked_copy(net, means, masks)
    empty = next((name for name, x in (*masked.named_parameters(), *masked.named_buffers()) if x.is_meta), None)
    if empty is not None:
        raise ValueError(f"{empty!r} is on the meta device and holds no values; load the weights first")
    with on_its_own(net), noted(masked) as calls:
        run_example(masked, example)
    prepared = prepare(masked, masks, example, [skip] if isinstance(skip, str) else skip)
    graph = trace(prepared.net, example, None if prepared.opened else calls)
    walk = Walk(prepared.net, graph, prepared.masks, prepared.closed, pointwise)
    walk.watch(graph, prepared.watched)
    facts = walk.facts
    tie_uses(facts)
    tie_spreads(facts)
    keep_dropped(facts)
    solution, made = settle(masked, masks, prepared, facts, example)
    return Compacted(made.net, made.masks, made.changes, reasons(prepared, facts, solution))
