"""Compaction rules for pointwise operators: activations, sums, products, choices."""

from typing import Any

import torch
from torch import Tensor, fx

from bayesprune.sparse.compact.atoms import combine, relabel, varies, varying
from bayesprune.sparse.compact.facts import Flow, Spread, Uncut
from bayesprune.sparse.compact.graph import where
from bayesprune.sparse.compact.walk import Result, Value, Walk, rule

__all__ = ["pointwise"]

aten = torch.ops.aten
_PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar)


@rule(aten.clone, aten.detach, aten.contiguous, aten.alias, aten.lift_fresh_copy, aten.dropout, aten.feature_dropout,
      aten.alpha_dropout, aten.feature_alpha_dropout, aten._to_copy, aten.to, aten.type_as, aten.positive)  # fmt: skip
def same(walk: Walk, node: fx.Node) -> Result:
    """Identity operators: copies, and dropout in eval mode."""
    value = walk.value(node.args[0])
    if node.target in (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default) and node.args[2]:
        return walk.barrier(node, "dropout is on")
    assert value is not None
    if node.meta["val"].dtype != node.all_input_nodes[0].meta["val"].dtype and not node.meta["val"].is_floating_point():
        return pointwise(walk, node)
    return value


@rule(aten.zeros_like, aten.ones_like, aten.full_like, aten.rand_like, aten.randn_like)
def like(walk: Walk, node: fx.Node) -> Value:
    """``zeros_like`` and its kin: a new tensor as large as another."""
    (value,) = walk.labelled(node.args[:1])
    index, (atoms,) = combine([value.labels], walk.facts.atoms.count)
    constants: dict[Any, Any] = {aten.zeros_like: 0.0, aten.ones_like: 1.0}
    packet = node.target.overloadpacket  # type: ignore[union-attr]
    constant = node.args[1] if packet is aten.full_like else constants.get(packet, torch.nan)
    out = walk.facts.atoms.new(len(atoms), torch.full((len(atoms),), float(constant)))  # type: ignore[arg-type]
    walk.facts.tie(out, atoms)
    return Value(relabel(out, index))


@rule(aten.zeros, aten.ones, aten.full, aten.rand, aten.randn, aten.empty, aten.new_zeros, aten.new_ones, aten.new_full,
      aten.new_empty)  # fmt: skip
def made(walk: Walk, node: fx.Node) -> Value:
    """``zeros`` and its kin: a new tensor, whose size may be that of channels."""
    constants: dict[Any, Any] = {aten.zeros: 0.0, aten.ones: 1.0, aten.new_zeros: 0.0, aten.new_ones: 1.0}
    packet = node.target.overloadpacket  # type: ignore[union-attr]
    constant = constants.get(packet, torch.nan)
    if packet in (aten.full, aten.new_full):
        constant = next((x for x in reversed(node.args) if isinstance(x, int | float)), torch.nan)
    shape = node.meta["val"].shape
    return walk.sized(node, shape, {1 if len(shape) > 1 else 0, len(shape) - 1}, float(constant))


@rule(aten.arange, aten.scalar_tensor, aten.linspace, aten.eye)
def counted(walk: Walk, node: fx.Node) -> Value:
    """``arange`` and its kin: a new tensor of a fixed size."""
    number = node.args[0] if node.target is aten.scalar_tensor.default else torch.nan
    atom = walk.facts.atoms.new(1, torch.tensor([float(number)]))  # type: ignore[arg-type]
    walk.facts.pin(atom, "its size is written in")
    shape = node.meta["val"].shape
    return Value(atom.view([1] * len(shape)).expand(shape))


@rule(aten._assert_tensor_metadata, aten._assert_async)
def nothing(walk: Walk, node: fx.Node) -> list[Any]:
    """Assertions: no result."""
    return []


@rule(aten.hardswish, aten.log_sigmoid, aten.where, aten.polar)  # which torch does not tag
def pointwise(walk: Walk, node: fx.Node) -> Result:
    """Any operator that torch tags as pointwise."""
    shape = node.meta["val"].shape
    operands = [x for x in (*node.args, *node.kwargs.values()) if walk.value(x) is not None]
    values = [walk.value(x) for x in operands]
    labels = [value.labels.expand(shape) for value in values if value is not None]
    index, combinations = combine(labels, walk.facts.atoms.count)
    constants = [walk.facts.atoms.values(one) for one in combinations]
    out = walk.facts.atoms.new(combinations.shape[1], _evaluate(node, dict(zip(operands, constants, strict=True))))
    for value, own in zip(values, combinations, strict=True):
        assert value is not None
        walk.facts.steps.append(Flow(out, own))
        missing = len(shape) - value.labels.dim()
        sides = (1,) * missing + tuple(value.shape)
        over = [axis for axis in varying(index) if sides[axis] == 1]
        if not over:
            walk.facts.tie(out, own)
            continue
        limits = []
        for axis in varying(index):
            if sides[axis] > 1 and varies(value.labels, axis - missing):
                reason = f"what {where(node) or 'the net'} spreads over channels is not the same along it"
                limits.append(Uncut(relabel(out, index), axis, where(node), reason))
        if limits:
            walk.facts.spreads.append(Spread(out, own, tuple(limits)))
        else:
            walk.facts.pin(own, "it is spread over channels")
    return Value(relabel(out, index))


def _evaluate(node: fx.Node, constants: dict[object, Tensor]) -> Tensor:
    """The operator on the constants that meet in each combination; NaN where one is unknown."""
    known = torch.stack([~x.isnan() for x in constants.values()]).all(0)
    swapped = {x: _typed(x, value.nan_to_num()) for x, value in constants.items()}
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda x: swapped[x])
    try:
        with torch.no_grad():
            result = node.target(*args, **kwargs)  # type: ignore[operator]
        if result.is_complex():
            return torch.where(known & (result == 0), 0.0, torch.nan)
        result = torch.where(known, result.to(torch.float64), torch.nan)
    except Exception:  # what has no float64 kernel stays unknown
        return torch.full_like(known, torch.nan, dtype=torch.float64)
    if node.target in _PRODUCTS:
        zero = torch.stack([x == 0 for x in constants.values()]).any(0)
        result = torch.where(zero, 0.0, result)
    return result


def _typed(argument: object, values: Tensor) -> Tensor:
    """``values`` as integers or bools where the operator takes such."""
    assert isinstance(argument, fx.Node)
    dtype = argument.meta["val"].dtype
    return values if dtype.is_floating_point or dtype.is_complex else values.to(dtype)
