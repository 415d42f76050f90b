"""Compaction rules for operators that read or write at places which a tensor tells: index, gather, scatter."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.sparse.compact.atoms import combine, relabel, tight, varies, varying
from bayesprune.sparse.compact.facts import Flow, Mix, Rect
from bayesprune.sparse.compact.graph import arguments, where
from bayesprune.sparse.compact.moves import go_along, results, uncut
from bayesprune.sparse.compact.walk import Result, Value, Walk, rule
from bayesprune.sparse.compact.within import reduced

__all__: list[str] = []

aten = torch.ops.aten
_UNKNOWN = object()


@rule(aten.index, aten.index_select)
def index(walk: Walk, node: fx.Node) -> Result:
    """Picking by places: where no input decides them, such as in a table of relative positions, along any axis."""
    value, given = walk.value(node.args[0]), node.args[1:]
    if value is None:
        return walk.unknown(node)
    args: Any = [_known(walk, one) for one in given]
    axes = _indexed(given[0])
    if any(one is _UNKNOWN for one in args):
        if any(varies(value.labels, axis) for axis in axes):
            return _over_channels(walk, node)
        args = fx.node.map_arg(list(given), lambda one: torch.zeros(one.meta["val"].shape, dtype=torch.int64))
    for axis in axes:
        uncut(walk, node, value, axis)
        go_along(walk, node, value, axis)
    made = results(walk, node, node.target(value.labels.contiguous(), *args))  # type: ignore[operator]
    assert isinstance(made, Value)
    _told_by(walk, node, made, walk.labelled(given))
    return made


def _indexed(places: Any) -> list[int]:
    return [places] if isinstance(places, int) else [axis for axis, one in enumerate(places) if one is not None]


def _over_channels(walk: Walk, node: fx.Node) -> Result:
    what = f"{node.target.overloadpacket.__name__} in {where(node) or 'the net'}"  # type: ignore[union-attr]
    return walk.barrier(node, f"{what} takes channels by numbers that are computed")


def _told_by(walk: Walk, node: fx.Node, made: Value, places: list[Value]) -> None:
    """What is at ``places`` enters all of ``made``."""
    for one in places:
        walk.facts.pin(one.atoms, f"{where(node) or 'the net'} takes places from it")
        walk.facts.steps.append(Mix(made.atoms, one.atoms))


def _known(walk: Walk, argument: Any) -> Any:
    """An argument with the values of its tensors, where these are buffers and constants."""
    if isinstance(argument, tuple | list):
        found = [_known(walk, one) for one in argument]
        return _UNKNOWN if any(one is _UNKNOWN for one in found) else found
    if not isinstance(argument, fx.Node):
        return argument
    if argument.op == "placeholder":
        known = walk.constants.get(argument.name, walk.tensors.get(walk.names.get(argument.name, "")))
        return _UNKNOWN if known is None else known.detach().cpu()
    args = _known(walk, argument.args)
    if args is _UNKNOWN or argument.kwargs or argument.op != "call_function":
        return _UNKNOWN
    return argument.target(*args)  # type: ignore[operator]


def _flat(walk: Walk, axis: int, *values: Value) -> list[Value] | None:
    """The values with what is along ``axis`` tied together; None where that is the channels."""
    found = []
    for value in values:
        spots = varying(value.labels)
        if spots == [axis]:
            return None
        found.append(reduced(walk, value, [axis], keeps=True) if axis in spots else value)
    return found


def _first(value: Value, axis: int) -> Tensor:
    return value.labels.narrow(axis, 0, 1) if value.labels.dim() else value.labels


@rule(aten.gather)
def gather(walk: Walk, node: fx.Node) -> Result:
    """Picking by places of its own for each channel, along another axis than the channels'."""
    value, places = walk.value(node.args[0]), walk.value(node.args[2])
    if value is None or places is None or not value.labels.dim():
        return walk.unknown(node)
    axis: Any = node.args[1]
    axis %= value.labels.dim()
    flat = _flat(walk, axis, value, places)
    if flat is None:
        return _over_channels(walk, node)
    labels = _first(flat[0], axis)
    for other, side in enumerate(places.shape):
        if other != axis and side != labels.shape[other]:
            uncut(walk, node, value, other)
            labels = labels.narrow(other, 0, side)
    return _together(walk, node, [labels.expand(places.shape), flat[1].labels], lambda read, _: read)


@rule(aten.scatter, aten.scatter_add, aten.scatter_reduce)
def scatter(walk: Walk, node: fx.Node) -> Result:
    """Writing to places of its own for each channel, along another axis than the channels'."""
    into, places = walk.value(node.args[0]), walk.value(node.args[2])
    if into is None or places is None or not into.labels.dim():
        return walk.unknown(node)
    axis: Any = node.args[1]
    axis %= into.labels.dim()
    source = walk.value(node.args[3])
    each = [into, places, *([] if source is None else [source])]
    sides = [[side for other, side in enumerate(one.shape) if other != axis] for one in each]
    flat = _flat(walk, axis, *each)
    if flat is None or any(side != sides[0] for side in sides):
        return _over_channels(walk, node)
    sums = node.target.overloadpacket is not aten.scatter or len(node.args) > 4 or bool(node.kwargs)  # type: ignore[union-attr]
    number: Any = torch.nan if source is not None else node.args[3]

    def constant(before: Tensor, _: Tensor, more: Tensor | float = number) -> Tensor:
        return _equal(before, torch.as_tensor(more), sums)

    return _together(walk, node, [_first(one, axis).expand(into.shape) for one in flat], constant)


@rule(aten.index_add, aten.index_copy)
def index_add(walk: Walk, node: fx.Node) -> Result:
    """Writing slices to places along another axis than the channels'."""
    into, places, source = walk.value(node.args[0]), walk.value(node.args[2]), walk.value(node.args[3])
    axis: Any = node.args[1]
    if into is None or places is None or source is None or not into.labels.dim():
        return walk.unknown(node)
    axis %= into.labels.dim()
    flat = _flat(walk, axis, into, source)
    if flat is None:
        return _over_channels(walk, node)
    sums = node.target.overloadpacket is aten.index_add  # type: ignore[union-attr]
    written = [_first(one, axis).expand(into.shape) for one in flat]
    made = _together(walk, node, written, lambda before, more: _equal(before, more, sums))
    _told_by(walk, node, made, [places])
    return made


@rule(aten.index_put)
def index_put(walk: Walk, node: fx.Node) -> Result:
    """Writing what is no channel's own to places along other axes than the channels'."""
    into, source = walk.value(node.args[0]), walk.value(node.args[2])
    if into is None or source is None:
        return walk.unknown(node)
    axes = _indexed(node.args[1])
    if any(varies(into.labels, axis) for axis in axes) or varying(source.labels):
        return _over_channels(walk, node)
    labels = into.labels
    for axis in axes:
        labels = labels.narrow(axis, 0, 1)
    number, sums = walk.facts.atoms.values(source.labels.flatten()[:1]), bool(arguments(node)["accumulate"])
    made = _together(walk, node, [labels.expand(into.shape)], lambda before: _equal(before, number, sums))
    _told_by(walk, node, made, [source, *walk.labelled(node.args[1])])
    return made


@rule(aten.max_unpool2d, aten.max_unpool3d)
def max_unpool(walk: Walk, node: fx.Node) -> Result:
    """The reverse of max pooling: each channel by itself, zeros around it."""
    value, places = walk.value(node.args[0]), walk.value(node.args[1])
    if value is None or places is None:
        return walk.unknown(node)
    shape = node.meta["val"].shape
    axes = range(len(shape) - (2 if node.target is aten.max_unpool2d.default else 3), len(shape))
    if any(varies(one.labels, axis) for one in (value, places) for axis in axes):
        return _over_channels(walk, node)
    each = [value.labels, places.labels]
    for axis in axes:
        each = [one.narrow(axis, 0, 1) for one in each]
    zero = torch.zeros(())
    return _together(walk, node, [one.expand(shape) for one in each], lambda read, _: _equal(read, zero, False))


def _equal(before: Tensor, written: Tensor, sums: bool) -> Tensor:
    """A constant into which ``written`` is written, or to which it is added; NaN where it is one no longer."""
    return torch.where((written == 0) & (before == 0) if sums else written == before, before, torch.nan)


def _together(walk: Walk, node: fx.Node, labels: list[Tensor], constant: Callable[..., Tensor]) -> Value:
    """A result each entry of which depends on those beside it, in the shape of ``labels``.

    Args:
        walk: the walk.
        node: the operator.
        labels: of what it reads.
        constant: what a channel is where these are constants.
    """
    index, combinations = combine([tight(one) for one in labels], walk.facts.atoms.count)
    values = [walk.facts.atoms.values(own) for own in combinations]
    out = walk.facts.atoms.new(combinations.shape[1], constant(*values))
    for one, own in zip(labels, combinations, strict=True):
        walk.facts.steps.append(Flow(out, own))
        if varying(tight(one)) or not varying(index):
            walk.facts.tie(out, own)
        else:  # of a size that may be another's
            walk.facts.pin(own, "it is spread over channels")
            walk.facts.limits.append(Rect(relabel(out, index), where(node), viewed=True))
    return Value(relabel(out, index))
