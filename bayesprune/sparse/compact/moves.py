"""Compaction rules for operators that only move entries (reshape, permute, concatenate): run on the labels."""

from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.sparse.compact.atoms import combine, relabel, spread, tight, varies, varying
from bayesprune.sparse.compact.facts import Flow, Mix, Parts, Rect, Uncut
from bayesprune.sparse.compact.graph import arguments, where
from bayesprune.sparse.compact.walk import Result, Value, Walk, rule

__all__ = ["go_along", "results", "uncut"]

aten = torch.ops.aten
_VIEWS = (aten.view, aten._unsafe_view, aten.reshape, aten.unflatten)


@rule(aten.view, aten.reshape, aten._unsafe_view, aten.flatten, aten.unflatten, aten.permute, aten.transpose, aten.t,
      aten.numpy_T, aten.squeeze, aten.unsqueeze, aten.cat, aten.concat, aten.stack, aten.movedim, aten.swapaxes,
      aten.pixel_shuffle, aten.pixel_unshuffle, aten.channel_shuffle, aten.flip, aten.roll, aten.rot90, aten.repeat,
      aten.tile, aten.repeat_interleave.self_int)  # fmt: skip
def move(walk: Walk, node: fx.Node) -> Result:
    """Reshapes, permutations, concatenations: what goes has to be whole slices before and after."""
    value = _moved(walk, node)
    for one in walk.labelled(node.args[:1]):
        if node.target in (aten.flip.default, aten.roll.default, aten.rot90.default):
            turned: Any = arguments(node)["dims"]
            for axis in turned or range(one.labels.dim()):
                uncut(walk, node, one, axis % one.labels.dim())
    return value


@rule(aten.expand, aten.expand_as, aten.broadcast_to)
def expand(walk: Walk, node: fx.Node) -> Result:
    """What is spread from one to many: of what varies along no axis the many go with what they meet."""
    value, shape = walk.value(node.args[0]), node.meta["val"].shape
    if value is None or varying(value.labels) or not value.labels.dim():
        return move(walk, node)
    sides = (1,) * (len(shape) - value.labels.dim()) + tuple(value.shape)
    many = [axis for axis in range(1, len(shape)) if sides[axis] == 1 < shape[axis]]
    if not many:
        return move(walk, node)
    source = value.labels.flatten()[:1]
    made = walk.sized(node, shape, many, float(walk.facts.atoms.values(source)))
    walk.facts.pin(source, "it is spread over channels")
    walk.facts.steps.append(Mix(made.atoms, source))
    return made


@rule(aten.select, aten.slice, aten.narrow, aten.select_scatter, aten.slice_scatter, aten.unbind, aten.diagonal,
      aten.unfold)  # fmt: skip
def pick(walk: Walk, node: fx.Node) -> Result:
    """Selecting and slicing: a fixed index counts on all slices to be there."""
    value, into = _moved(walk, node), walk.value(node.args[0])
    assert into is not None
    if node.target is aten.diagonal.default:
        axes = list(range(into.labels.dim()))
    else:
        scatters = (aten.select_scatter.default, aten.slice_scatter.default)
        axes = [_axis(node, 2 if node.target in scatters else 1) % into.labels.dim()]
    meta = node.meta["val"]
    if isinstance(meta, Tensor) and meta.shape == into.shape and node.target is aten.slice.Tensor:
        return value
    for axis in axes:
        uncut(walk, node, into, axis)
        go_along(walk, node, into, axis)
    return value


@rule(aten.copy)
def copy(walk: Walk, node: fx.Node) -> Result:
    """Writes into a part of another tensor."""
    written = walk.value(node.args[1])
    assert written is not None
    return Value(tight(written.labels.expand(node.meta["val"].shape)))


@rule(aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split)
def split(walk: Walk, node: fx.Node) -> Result:
    """Equal parts stay equal: ``torch.chunk`` counts anew (a split by a number that is written in fails the check)."""
    value, into = _moved(walk, node), walk.value(node.args[0])
    assert into is not None
    axis = _axis(node, 2) % into.labels.dim()
    sides = [one.shape[axis] for one in node.meta["val"]]
    if len(set(sides)) == 1:
        walk.facts.limits.append(Parts(into.labels, axis, len(sides), where(node)))
    else:
        uncut(walk, node, into, axis)
    return value


@rule(aten.glu)
def glu(walk: Walk, node: fx.Node) -> Result:
    """GLU: one half times the sigmoid of the other."""
    value = walk.value(node.args[0])
    assert value is not None
    axis = _axis(node, 1, -1) % value.labels.dim()
    walk.facts.limits.append(Parts(value.labels, axis, 2, where(node)))
    index, halves = combine([tight(half) for half in value.labels.chunk(2, axis)], walk.facts.atoms.count)
    a, b = (walk.facts.atoms.values(half) for half in halves)
    out = walk.facts.atoms.new(halves.shape[1], torch.where(a == 0, 0.0, a * b.sigmoid()))
    for half in halves:
        walk.facts.steps.append(Flow(out, half))
        walk.facts.tie(out, half)
    return Value(relabel(out, index))


@rule(aten.pad, aten.constant_pad_nd)
def pad(walk: Walk, node: fx.Node) -> Result:
    """Padding: a channel stays constant where the padded entries equal its constant."""
    value = walk.value(node.args[0])
    assert value is not None
    sides: Any = node.args[1]
    mode = node.args[2] if len(node.args) > 2 and isinstance(node.args[2], str) else node.kwargs.get("mode", "constant")
    last = node.args[-1] if len(node.args) > 2 else node.kwargs.get("value")
    fill = float(last) if isinstance(last, int | float) else 0.0
    padded = {value.labels.dim() - 1 - i // 2 for i, side in enumerate(sides) if side}
    if any(varies(value.labels, axis) for axis in padded):
        if mode != "constant":
            return walk.barrier(node, f"padding by {mode} across channels")
        beside = walk.facts.atoms.new(1, torch.tensor([fill]))
        walk.facts.pin(beside, f"{where(node) or 'the net'} pads the channels")
        labels = aten.constant_pad_nd.default(value.labels.contiguous(), sides, int(beside))
        walk.facts.limits.append(Rect(tight(labels), where(node)))
        return Value(tight(labels))
    index, (own,) = combine([value.labels], walk.facts.atoms.count)
    constants, shapes = walk.facts.atoms.shaped(torch.arange(len(own)), own, len(own))
    if mode == "constant" and fill:
        constants = torch.where((constants == fill) & (shapes == 0), constants, torch.nan)
    elif mode == "constant":
        shapes = torch.where((constants == 0) | constants.isnan(), 0, walk.facts.atoms.after(node, shapes))
    else:
        constants = torch.where(shapes == 0, constants, torch.nan)
    out = walk.facts.atoms.new(len(own), constants, None if fill or mode != "constant" else shapes)
    walk.facts.tie(out, own)
    walk.facts.steps.append(Flow(out, own))
    labels = relabel(out, index)
    for axis in padded:
        labels = labels.narrow(axis, 0, 1)
    return Value(labels.expand(node.meta["val"].shape))


def _axis(node: fx.Node, place: int, default: int = 0) -> int:
    given: Any = node.args[place] if len(node.args) > place else node.kwargs.get("dim", default)
    return given


def _moved(walk: Walk, node: fx.Node) -> Result:
    def labels(argument: fx.Node) -> Any:
        value = walk.value(argument)
        return argument if value is None else value.labels

    args: Any
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), labels)
    if node.target is aten.slice_scatter.default or node.target is aten.select_scatter.default:
        args = (args[0].contiguous(), *args[1:])
    strided = (aten.view.default, aten._unsafe_view.default)  # labels have strides of their own
    operator: Any = aten.reshape.default if node.target in strided else node.target
    result = results(walk, node, operator(*args, **kwargs))
    into = walk.value(node.args[0])
    if into is None or into.sums_to_one is None or not isinstance(result, Value) or len(node.all_input_nodes) > 1:
        return result
    counted = torch.arange(into.shape[into.sums_to_one])
    before = spread(counted, into.shape, into.sums_to_one)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda _: before)
    after = operator(*args, **kwargs)
    axes = (axis for axis in range(after.dim()) if after.shape[axis] == len(counted))
    found = next((axis for axis in axes if torch.equal(after, spread(counted, after.shape, axis))), None)
    return Value(result.labels, sums_to_one=found)


def results(walk: Walk, node: fx.Node, result: Any) -> Result:
    """Labels that were moved as an operator's results, each a full box."""
    if isinstance(result, tuple | list):
        return [results(walk, node, one) for one in result]
    labels = tight(result)
    viewed = node.target.overloadpacket in _VIEWS  # type: ignore[union-attr]
    walk.facts.limits.append(Rect(labels, where(node), viewed))
    return Value(labels)


def uncut(walk: Walk, node: fx.Node, value: Value, axis: int) -> None:
    """Along ``axis`` the labels stay, as numbers that are written in tell places there."""
    if varies(value.labels, axis):
        walk.facts.limits.append(Uncut(value.labels, axis, where(node)))


def go_along(walk: Walk, node: fx.Node, value: Value, axis: int) -> None:
    """Of a table of channels, what the example does not pick goes along with what it picks."""
    others = (a for a in range(value.labels.dim()) if a != axis)
    if node.all_input_nodes[0].op == "placeholder" and any(varies(value.labels, a) for a in others):
        walk.facts.tie(value.labels.narrow(axis, 0, 1).expand_as(value.labels), value.labels)
