"""Compaction rules for linear layers and convolutions, which read and make channels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.sparse.compact.atoms import core, spread, varying
from bayesprune.sparse.compact.facts import Axis, Flow, Groups, Read
from bayesprune.sparse.compact.graph import where
from bayesprune.sparse.compact.walk import Result, Value, Walk, rule

__all__ = ["columns_of", "product"]

aten = torch.ops.aten
_MAKES_BIAS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def columns_of(walk: Walk, value: Value, axis: int) -> tuple[Tensor, Tensor]:
    """The places along ``axis`` and the atoms there, all of a place tied together."""
    labels = value.labels.movedim(axis, -1)
    labels = core(labels, [*varying(labels), labels.dim() - 1])
    width = labels.shape[-1]
    pairs = torch.unique(torch.arange(width) * walk.facts.atoms.count + labels)
    index, atoms = pairs // walk.facts.atoms.count, pairs % walk.facts.atoms.count
    walk.facts.tie_by(index, atoms, width)
    return index, atoms


def _bias(walk: Walk, node: fx.Node, weight: str, bias: object) -> tuple[str | None, bool]:
    """The bias's name, where constants can go there, and whether there is one that cannot be followed."""
    if bias is not None:
        name = walk.parameter(bias)
        return name, name is None
    path = weight.rpartition(".")[0]
    owner = walk.net.get_submodule(path)
    makes = path == where(node) and type(owner) in _MAKES_BIAS and owner._parameters.get("bias", 0) is None
    return (f"{path}.bias" if path else "bias") if makes else None, False


@rule(aten.linear)
def linear(walk: Walk, node: fx.Node) -> Result:
    """``F.linear``: columns along the last axis."""
    x, weight, *rest = node.args
    return product(walk, node, x, weight, rest[0] if rest else node.kwargs.get("bias"), axis=-1)


@rule(aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution)
def conv(walk: Walk, node: fx.Node) -> Result:
    """A convolution: columns along the channels, in groups."""
    bound = _bound(node, ("input", "weight", "bias", "stride", "padding", "dilation", "groups"))
    if node.target is aten.convolution.default:
        bound = _bound(node, ("input", "weight", "bias", "stride", "padding", "dilation", "transposed", "", "groups"))
        if bound["transposed"]:
            return walk.barrier(node, "a transposed convolution")
    weight: Any = bound["weight"]
    dims = weight.meta["val"].dim() - 2
    padding = bound.get("padding", 0)
    kernel = weight.meta["val"].shape[2:]
    bare = padding == "valid" or (padding == "same" and all(side == 1 for side in kernel))
    bare = bare or (not isinstance(padding, str) and not any(padding if isinstance(padding, Sequence) else [padding]))
    groups = bound.get("groups", 1)
    args = walk, node, bound["input"], weight, bound.get("bias")
    return product(*args, axis=-1 - dims, groups=groups, folds=bare)  # type: ignore[arg-type]


@rule(aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d)
def conv_transpose(walk: Walk, node: fx.Node) -> Result:
    """A transposed convolution, whose kernels overlap unevenly: a constant does not stay one."""
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    bound = _bound(node, names)
    if bound.get("groups", 1) != 1:
        return walk.barrier(node, "a transposed convolution in groups")
    dims = bound["weight"].meta["val"].dim() - 2  # type: ignore[attr-defined]
    args = walk, node, bound["input"], bound["weight"], bound.get("bias")
    return product(*args, axis=-1 - dims, folds=False, transposed=True)


@rule(aten.addmm)
def addmm(walk: Walk, node: fx.Node) -> Result:
    """``bias + x @ weight``, as Hugging Face's ``Conv1D`` has it."""
    bias, x, weight = node.args
    if walk.parameter(weight) is None or walk.parameter(bias) is None:
        return walk.barrier(node, "its weight is not a parameter of its own")
    return product(walk, node, x, weight, bias, axis=-1, transposed=True)


def _bound(node: fx.Node, names: Sequence[str]) -> dict[str, Any]:
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def product(
    walk: Walk,
    node: fx.Node,
    x: object,
    weight: object,
    bias: object,
    *,
    axis: int,
    groups: int = 1,
    folds: bool = True,
    transposed: bool = False,
) -> Result:
    value, name = walk.value(x), walk.parameter(weight)
    if value is None or name is None:
        return walk.barrier(node, f"the weight of {where(node) or 'the net'} is shared or computed")
    bias_name, lost = _bias(walk, node, name, bias)
    if lost:
        return walk.barrier(node, f"the bias of {where(node) or 'the net'} is shared or computed")
    axis %= value.labels.dim()
    numbers, kept = walk.numbers(name), walk.kept(name).cpu()
    if transposed:
        numbers, kept = numbers.transpose(0, 1), kept.transpose(0, 1)
    numbers = numbers.flatten(2).sum(2) if numbers.dim() > 2 else numbers
    kept = kept.flatten(2).any(2) if kept.dim() > 2 else kept
    into, out = numbers.shape[1], numbers.shape[0] // groups
    numbers, kept = numbers.reshape(groups, out, into), kept.reshape(groups, out, into)
    index, columns = columns_of(walk, value, axis)
    constant, shapes = walk.facts.atoms.shaped(index, columns, groups * into)
    each = torch.where((shapes == 0) | (constant == 0), constant, torch.nan).view(groups, 1, into)
    spoilt = kept & (each.isnan() if folds else each != 0)  # NaN is not 0 either
    made = (numbers @ each.nan_to_num().transpose(1, 2)).flatten()
    if bias is not None and bias_name is not None:
        made = made + walk.numbers(bias_name)
    rows = walk.facts.atoms.new(groups * out, torch.where(spoilt.any(2).flatten(), torch.nan, made))
    rows_axis = 1 if transposed else 0
    walk.facts.axes.append(Axis(name, rows_axis, torch.arange(groups * out), rows))
    if bias_name is not None:
        walk.facts.axes.append(Axis(bias_name, 0, torch.arange(groups * out), rows))
    if into == 1 and groups > 1:  # depthwise: an output goes with its input
        owner = rows.view(groups, out)[index]
        walk.facts.tie(owner, columns[:, None].expand_as(owner))
        own = columns[:, None].expand_as(owner).flatten()
        walk.facts.steps.append(Flow(owner.flatten(), own, kept.view(groups, out)[index].flatten()))
    else:
        if groups > 1:
            first = torch.zeros(groups * into, dtype=torch.int64).scatter(0, index, columns)
            walk.facts.limits.append(Groups(first.view(groups, into), rows.view(groups, out), where(node)))
        else:
            walk.facts.axes.append(Axis(name, 1 - rows_axis, index, columns))
        walk.facts.steps.append(
            Read(where(node), name, bias_name, kept, rows, index, columns, constant, shapes, folds, out_axis=rows_axis)
        )
    shape = node.meta["val"].shape
    return Value(spread(rows, shape, axis + len(shape) - value.labels.dim()))


@rule(aten.embedding)
def embedding(walk: Walk, node: fx.Node) -> Result:
    """A table: its columns are channels; each row may be any token's."""
    name = walk.parameter(node.args[0])
    if name is None:
        return walk.barrier(node, "its table is shared")
    numbers, shape = walk.numbers(name), node.meta["val"].shape
    low, high = numbers.aminmax(dim=0)
    atoms = walk.facts.atoms.new(numbers.shape[1], torch.where(low == high, low, torch.nan))
    walk.facts.axes.append(Axis(name, 1, torch.arange(len(atoms)), atoms))
    return Value(spread(atoms, shape, len(shape) - 1))
