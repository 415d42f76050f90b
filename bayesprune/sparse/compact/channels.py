"""Compaction rules for normalisation, in eval mode within each channel, and for what takes statistics across them."""

import operator
from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.sparse.compact.atoms import combine, relabel, spread, varies
from bayesprune.sparse.compact.facts import Axis, Flow
from bayesprune.sparse.compact.graph import where
from bayesprune.sparse.compact.products import columns_of
from bayesprune.sparse.compact.walk import Result, Value, Walk, rule
from bayesprune.sparse.compact.within import reduced

__all__: list[str] = []

aten = torch.ops.aten


@rule(aten._native_batch_norm_legit_no_training)
def batch_norm(walk: Walk, node: fx.Node) -> Result:
    """Batch normalisation in eval mode: a factor and a shift per channel."""
    x, *vectors, _, eps = node.args
    names = [None if one is None else walk.parameter(one) for one in vectors]
    if any(one is not None and name is None for one, name in zip(vectors, names, strict=True)):
        return walk.barrier(node, f"{where(node)} is shared")
    return [_by_channel(walk, x, names, eps), None, None]  # type: ignore[arg-type]


@rule(aten.batch_norm, aten._native_batch_norm_legit, aten.native_batch_norm)
def batch_statistics(walk: Walk, node: fx.Node) -> Result:
    """Batch normalisation by the statistics of the batch itself."""
    return walk.barrier(node, f"{where(node)} takes statistics over the batch")


@rule(aten.instance_norm)
def instance_norm(walk: Walk, node: fx.Node) -> Result:
    """Instance normalisation: statistics of each channel alone, so a constant channel becomes the shift."""
    x, weight, bias, mean, variance, by_input, _, eps, *_ = node.args
    names = [None if one is None else walk.parameter(one) for one in (weight, bias)]
    if not by_input or any(one is not None and name is None for one, name in zip((weight, bias), names, strict=True)):
        return walk.barrier(node, f"{where(node)} is shared")
    return _by_channel(walk, x, [*names, None, None], eps, ignored=(mean, variance))  # type: ignore[arg-type]


def _by_channel(walk: Walk, x: object, names: list[str | None], eps: float, ignored: tuple[object, ...] = ()) -> Value:
    value = walk.value(x)
    assert value is not None
    index, columns = columns_of(walk, value, 1)
    width = value.shape[1]
    constant = walk.facts.atoms.uniform(index, columns, width)
    weight, bias, mean, variance = (None if name is None else walk.numbers(name) for name in names)
    alive = torch.ones(width, dtype=torch.bool) if names[0] is None else walk.kept(names[0]).cpu()
    if mean is None or variance is None:
        moved = torch.where(constant.isnan(), torch.nan, 0.0)
    else:
        moved = (constant - mean) * (variance + eps).rsqrt()
    scaled = moved if weight is None else moved * weight
    result = torch.where(alive, scaled, 0.0) + (0.0 if bias is None else bias)
    out = walk.facts.atoms.new(width, result)
    walk.facts.tie(out[index], columns)
    walk.facts.steps.append(Flow(out[index], columns, alive[index]))
    stale = [walk.parameter(one) for one in ignored if one is not None]
    for name in [*names, *stale]:
        if name is not None:
            walk.facts.axes.append(Axis(name, 0, torch.arange(width), out))
    return Value(spread(out, value.shape, 1))


@rule(aten.prelu)
def prelu(walk: Walk, node: fx.Node) -> Result:
    """PReLU: one slope for all channels, or one per channel."""
    value, name = walk.value(node.args[0]), walk.parameter(node.args[1])
    if value is None or name is None:
        return walk.barrier(node, "its slope is shared")
    slope = walk.numbers(name)
    if len(slope) == 1:
        index, (atoms,) = combine([value.labels], walk.facts.atoms.count)
        labels, width = index, len(atoms)
        place = torch.arange(width)
    else:
        place, atoms = columns_of(walk, value, 1)
        width = value.shape[1]
        labels = spread(torch.arange(width), value.shape, 1)
    constant = walk.facts.atoms.uniform(place, atoms, width)
    out = walk.facts.atoms.new(width, torch.where(constant < 0, constant * slope, constant))
    walk.facts.tie(out[place], atoms)
    walk.facts.steps.append(Flow(out[place], atoms))
    if len(slope) > 1:
        walk.facts.axes.append(Axis(name, 0, torch.arange(width), out))
    return Value(relabel(out, labels))


@rule(aten.layer_norm, aten.rms_norm, aten.native_layer_norm)
def layer_norm(walk: Walk, node: fx.Node) -> Result:
    """Layer normalisation: statistics over the channels, which all stay."""
    value, meta = walk.value(node.args[0]), node.meta["val"]
    sides: Any = node.args[1]
    if value is None or not isinstance(meta, Tensor):
        return walk.barrier(node, "LayerNorm's statistics are over the channels")
    last = range(value.labels.dim() - len(sides), value.labels.dim())
    return _across(walk, node, value, [axis for axis in last if varies(value.labels, axis)], "LayerNorm")


@rule(aten.softmax, aten._softmax, aten.log_softmax, aten._safe_softmax)
def softmax(walk: Walk, node: fx.Node) -> Result:
    """Softmax: each entry is divided by the sum of all along an axis."""
    value = walk.value(node.args[0])
    assert value is not None
    axis: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", -1)
    axis %= value.labels.dim()
    others = (other for other in range(value.labels.dim()) if other != axis)
    if varies(value.labels, axis) and any(varies(value.labels, other) for other in others):
        result = reduced(walk, value, [axis], keeps=False, zero=False)
    else:
        result = _across(walk, node, value, [axis] if varies(value.labels, axis) else [], "softmax")
    sums = node.target.overloadpacket in (aten.softmax, aten._softmax)  # type: ignore[union-attr]
    return Value(result.labels, sums_to_one=axis if sums else None)


def _across(walk: Walk, node: fx.Node, value: Value, axes: list[int], what: str) -> Value:
    """The whole of what is along ``axes`` enters each entry of the result."""
    if axes:
        return walk.barrier(node, f"{what}'s statistics are over the channels")  # type: ignore[return-value]
    index, (atoms,) = combine([value.labels], walk.facts.atoms.count)
    out = walk.facts.atoms.new(len(atoms))
    walk.facts.tie(out, atoms)
    walk.facts.steps.append(Flow(out, atoms))
    return Value(relabel(out, index))


@rule(aten.group_norm, aten.native_group_norm)
def group_norm(walk: Walk, node: fx.Node) -> Result:
    """Group normalisation: statistics over several channels, which all stay."""
    return walk.barrier(node, "GroupNorm's statistics are over channels")


@rule(aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu)
def recurrent(walk: Walk, node: fx.Node) -> Result:
    """Recurrent layers: read as a whole."""
    return walk.barrier(node, f"{where(node)} is recurrent")


@rule(operator.getitem)
def getitem(walk: Walk, node: fx.Node) -> Result:
    """Choose one of an operator's several results."""
    several: Any = walk.values[node.args[0]]  # type: ignore[index]
    return several[node.args[1]]
