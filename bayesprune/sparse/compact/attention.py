"""Compaction rules for products of two activations: attention, head by head."""

from typing import Any

import torch
from torch import fx

from bayesprune.sparse.compact.atoms import combine, core, relabel, tight, varies, varying
from bayesprune.sparse.compact.facts import Flow, Mix
from bayesprune.sparse.compact.graph import where
from bayesprune.sparse.compact.products import product
from bayesprune.sparse.compact.walk import Result, Value, Walk, rule

__all__: list[str] = []

aten = torch.ops.aten


@rule(aten.scaled_dot_product_attention)
def attention(walk: Walk, node: fx.Node) -> Result:
    """Queries, keys and values of a head go together; a constant value stays what it is, as attention sums to one."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    bound: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    query, key, value = (walk.value(bound[name]) for name in names[:3])
    mask = walk.value(bound.get("attn_mask"))
    assert query is not None and key is not None and value is not None
    if bound.get("enable_gqa") or query.labels.dim() != value.labels.dim():
        return walk.barrier(node, "heads share keys and values")
    whole = not bound.get("dropout_p") and (mask is None or _shows(walk, bound["attn_mask"], mask))
    batch = query.shape[:-2]
    each = [query, key]
    if mask is not None:
        shown = mask.shape[:-2][::-1]  # from the last axis, as far as there are any
        by_head = any(side > 1 and varies(query.labels, -3 - i) for i, side in enumerate(shown))
        if by_head:
            each.append(mask)
        else:
            walk.facts.pin(mask.atoms, "it is a mask for all heads")
    scores = _heads(walk, node, each, batch)
    if scores is None:
        return walk.barrier(node, f"the attention of {where(node) or 'the net'} has no heads to tell apart")
    if mask is not None and len(each) == 2:
        walk.facts.steps.append(Mix(scores.atoms, mask.atoms))
    return _mixed(walk, node, scores, value, whole)


@rule(aten.matmul, aten.bmm, aten.mm)
def matmul(walk: Walk, node: fx.Node) -> Result:
    """With a parameter on the right it is a linear layer; else attention's scores, or their product with values."""
    left, right = walk.value(node.args[0]), None
    if walk.parameter(node.args[1]) is not None and node.args[1].meta["val"].dim() == 2:  # type: ignore[union-attr]
        return product(walk, node, node.args[0], node.args[1], None, axis=-1, transposed=True)
    right = walk.value(node.args[1])
    if left is None or right is None or left.labels.dim() < 2 or right.labels.dim() < 2:
        return walk.barrier(node, f"a product in {where(node) or 'the net'}")
    shape = node.meta["val"].shape
    weighs = left.sums_to_one == left.labels.dim() - 1
    scores = _heads(walk, node, [left] if weighs else [left, right], shape[:-2])
    if scores is None:
        return walk.barrier(node, f"a product in {where(node) or 'the net'} is over channels")
    return _mixed(walk, node, scores, right, True) if weighs else Value(scores.labels.expand(shape))


def _shows(walk: Walk, node: fx.Node, mask: Value) -> bool:
    """Whether each query sees some key whatever the input: the mask is known, and hides no row."""
    values = walk.facts.atoms.values(mask.labels)
    shown = values == 1 if node.meta["val"].dtype == torch.bool else values > torch.finfo(torch.float16).min
    return bool(shown.any(-1).all())


def _heads(walk: Walk, node: fx.Node, into: list[Value], batch: torch.Size) -> Value | None:
    """One atom for each entry of the batch axes, tied to all of the operands there; None where they have channels
    but no heads, or differ in them. Labels ``(*batch, 1, 1)``."""
    dims = len(batch)
    if any(one.labels.dim() < dims for one in into):
        into = [Value(one.labels.expand(*([1] * (dims + 2 - one.labels.dim())), *one.shape)) for one in into]
    if any(one.shape[axis] not in (1, batch[axis]) or (one.shape[axis] == 1 != batch[axis] and any(
        varies(other.labels, axis) for other in into)) for one in into for axis in range(dims)):  # fmt: skip
        return None
    firsts = [tight(core(one.labels, range(dims)).expand(*batch, 1, 1)) for one in into]
    index, combinations = combine(firsts, walk.facts.atoms.count)
    headed = any(varies(index, axis) for axis in range(dims))
    if not headed and any(any(varies(one.labels, axis) for axis in (-1, -2)) for one in into):
        return None
    out = walk.facts.atoms.new(combinations.shape[1])
    for one in into:
        spots = {*varying(one.labels), *range(dims)}
        place = core(index.expand(*batch, *one.shape[-2:]), spots)
        labels = core(one.labels.expand(*batch, *one.shape[-2:]), spots)
        pairs = torch.unique(place * walk.facts.atoms.count + labels)
        heads, atoms = pairs // walk.facts.atoms.count, pairs % walk.facts.atoms.count
        walk.facts.tie(out[heads], atoms)
        walk.facts.steps.append(Flow(out[heads], atoms))
    return Value(relabel(out, index))


def _mixed(walk: Walk, node: fx.Node, scores: Value, value: Value, whole: bool) -> Value:
    """Values weighted by attention: constant where they are constant over all positions."""
    shape = node.meta["val"].shape
    dims = len(shape) - 2
    first = tight(value.labels.narrow(-2, 0, 1).expand(*shape[:-2], 1, shape[-1]))
    heads = scores.labels.expand(*shape[:-2], 1, shape[-1])
    index, (firsts, own) = combine([first, heads], walk.facts.atoms.count)
    spots = {*varying(value.labels), *varying(index)}
    full = (*shape[:-2], value.shape[-2], shape[-1])
    place = core(index.expand(full), spots)
    labels = core(value.labels.expand(full), spots)
    pairs = torch.unique(place * walk.facts.atoms.count + labels)
    place, atoms = pairs // walk.facts.atoms.count, pairs % walk.facts.atoms.count
    constant = walk.facts.atoms.uniform(place, atoms, len(firsts))
    out = walk.facts.atoms.new(len(firsts), constant if whole else torch.where(constant == 0, 0.0, torch.nan))
    walk.facts.steps += [Flow(out[place], atoms), Flow(out, own)]
    walk.facts.tie(out[place], atoms)
    if any(varies(scores.labels, axis) for axis in range(dims)):
        walk.facts.tie(out, own)
    return Value(relabel(out, index).expand(shape))
