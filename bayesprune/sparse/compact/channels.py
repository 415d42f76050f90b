"""Compaction rules for operators within each channel (pooling, eval-mode normalisation) or across channels."""

import operator
from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.sparse.compact.atoms import combine, core, relabel, spread, tight, varies, varying
from bayesprune.sparse.compact.facts import Axis, Flow
from bayesprune.sparse.compact.graph import where
from bayesprune.sparse.compact.products import columns_of
from bayesprune.sparse.compact.walk import Result, Value, Walk, rule

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


@rule(aten.max_pool1d, aten.max_pool2d, aten.max_pool3d, aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d,
      aten.adaptive_avg_pool3d, aten.adaptive_max_pool1d, aten.adaptive_max_pool2d, aten.adaptive_max_pool3d,
      aten.max_pool1d_with_indices, aten.max_pool2d_with_indices, aten.max_pool3d_with_indices,
      aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d, aten.upsample_linear1d,
      aten.upsample_bilinear2d, aten.upsample_trilinear3d, aten.upsample_bicubic2d, aten._upsample_nearest_exact1d,
      aten._upsample_nearest_exact2d, aten._upsample_nearest_exact3d, aten._upsample_bilinear2d_aa)  # fmt: skip
def resize(walk: Walk, node: fx.Node) -> Result:
    """Pooling and resizing that keep a constant channel constant."""
    return _within(walk, node, keeps=True)


@rule(aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d)
def avg_pool(walk: Walk, node: fx.Node) -> Result:
    """Average pooling: a mean over windows, into which the padding's zeros count."""
    padding: Any = node.args[3] if len(node.args) > 3 else node.kwargs.get("padding", 0)
    counted = node.args[5] if len(node.args) > 5 else node.kwargs.get("count_include_pad", True)
    divisor = node.args[6] if len(node.args) > 6 else node.kwargs.get("divisor_override")
    padded = any(padding) if isinstance(padding, tuple | list) else bool(padding)
    return _within(walk, node, keeps=divisor is None and not (padded and counted))


def _within(walk: Walk, node: fx.Node, keeps: bool) -> Result:
    """Each channel by itself, over the axes after it."""
    value, meta = walk.value(node.args[0]), node.meta["val"]
    assert value is not None
    several = isinstance(meta, tuple | list)
    shape = meta[0].shape if several else meta.shape
    axes = [axis for axis in range(value.labels.dim()) if value.shape[axis] != shape[axis] or axis > 1]
    result = _reduced(walk, value, axes, keeps)
    labels = result.labels
    for axis in axes:
        labels = labels.narrow(axis, 0, 1)
    made = Value(labels.expand(shape))
    return [made, *(walk.fresh(one.shape, [value], "indices") for one in meta[1:])] if several else made


def _reduced(walk: Walk, value: Value, axes: list[int], keeps: bool, zero: bool = True) -> Value:
    """One atom for all entries along ``axes``, in the shape of ``value``; it ``keeps`` constants, or ``zero`` alone."""
    first = value.labels
    for axis in axes:
        first = first.narrow(axis, 0, 1)
    index, (firsts,) = combine([tight(first)], walk.facts.atoms.count)
    place = index.expand(value.shape)
    if any(varies(value.labels, axis) for axis in axes):
        spots = varying(value.labels)
        pairs = torch.unique(core(place, spots) * walk.facts.atoms.count + core(value.labels, spots))
        index_of, atoms = pairs // walk.facts.atoms.count, pairs % walk.facts.atoms.count
    else:
        index_of, atoms = torch.arange(len(firsts)), firsts
    constant = walk.facts.atoms.uniform(index_of, atoms, len(firsts))
    if not keeps:
        constant = torch.where((constant == 0) & zero, constant, torch.nan)
    out = walk.facts.atoms.new(len(firsts), constant)
    walk.facts.tie(out[index_of], atoms)
    walk.facts.steps.append(Flow(out[index_of], atoms))
    return Value(tight(relabel(out, index).expand(value.shape)))


@rule(aten.mean, aten.sum, aten.amax, aten.amin, aten.logsumexp, aten.var, aten.std, aten.norm, aten.linalg_vector_norm,
      aten.max, aten.min, aten.argmax, aten.argmin, aten.prod, aten.cumsum, aten.any, aten.all)  # fmt: skip
def reduce(walk: Walk, node: fx.Node) -> Result:
    """Reductions: over positions each channel by itself; over channels they all stay."""
    value, meta = walk.value(node.args[0]), node.meta["val"]
    packet = node.target.overloadpacket  # type: ignore[union-attr]
    known = {aten.mean: True, aten.amax: True, aten.amin: True, aten.sum: False}
    if value is None or packet not in known or not isinstance(meta, Tensor):
        return walk.barrier(node, f"{packet.__name__} in {where(node) or 'the net'} takes it as a whole")
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    dims = value.labels.dim()
    axes = sorted({axis % dims for axis in ([given] if isinstance(given, int) else given or range(dims))})
    others = [axis for axis in range(dims) if axis not in axes]
    if any(varies(value.labels, axis) for axis in axes) and not any(varies(value.labels, axis) for axis in others):
        return walk.barrier(node, f"{packet.__name__} in {where(node) or 'the net'} is over the channels")
    labels = _reduced(walk, value, axes, known[packet]).labels
    for axis in reversed(axes):
        labels = labels.narrow(axis, 0, 1)
        labels = labels if meta.dim() == dims else labels.squeeze(axis)
    return Value(labels.reshape(meta.shape) if labels.shape != meta.shape else labels)


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
        result = _reduced(walk, value, [axis], keeps=False, zero=False)
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
