"""Apply a compaction: slice parameters and buffers, and fold constants into biases."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesprune._copies import copied
from bayesprune.sparse.compact.atoms import distinct, varying
from bayesprune.sparse.compact.facts import Facts, Read, Rect
from bayesprune.sparse.compact.prepare import Prepared, prefix_of
from bayesprune.sparse.compact.solve import Solution, box
from bayesprune.sparse.layers.sizes import refit
from bayesprune.sparse.surgery.surgery import Surgery

__all__ = ["Change", "Cut", "cut"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Change:
    """What became of one parameter or buffer.

    Args:
        old: its shape; None where there was none.
        new: its shape now.
        kept: by axis the indices that stayed, None where all did. Of a grouped convolution the second axis counts the
            input channels of all groups.
    """

    old: tuple[int, ...] | None
    new: tuple[int, ...]
    kept: tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class Cut:
    """The smaller net, what is left of the masks, and what changed."""

    net: nn.Module
    masks: dict[str, Tensor]
    changes: dict[str, Change]


class _Tensors:
    """The tensors of a net while they are worked on, and their masks."""

    def __init__(self, net: nn.Module, masks: Mapping[str, Tensor]) -> None:
        self.old: dict[str, Tensor] = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        self.new: dict[str, Tensor] = {}
        self.masks = dict(masks)

    def get(self, name: str) -> Tensor:
        return self.new[name] if name in self.new else self.old[name].detach()


def cut(net: nn.Module, masks: Mapping[str, Tensor], prepared: Prepared, facts: Facts, solution: Solution) -> Cut:
    """A copy of ``net`` without what goes.

    Args:
        net: masked, as it came.
        masks: its masks.
        prepared: what was analysed.
        facts: what was found in it.
        solution: what goes.
    """
    tensors = _Tensors(prepared.net, prepared.masks)
    for step in facts.steps:
        if isinstance(step, Read):
            _move_constants(step, tensors, solution)
    kept = _kept(facts, solution)
    groups: dict[str, int] = {}
    changes: dict[str, Change] = {}
    for step in facts.steps:
        if isinstance(step, Read) and len(step.kept) > 1:
            _cut_groups(step, kept, tensors, solution, groups, changes)
    for name, axes in kept.items():
        _cut_axes(name, axes, tensors, changes)
    for name, x in tensors.new.items():
        before = tensors.old.get(name)
        old = None if before is None else tuple(before.shape)
        changes.setdefault(name, Change(old, tuple(x.shape), (None,) * x.dim()))
    result, left = _fit(net, masks, prepared, tensors, groups, _heads(prepared.net, facts, solution))
    left = {name: mask for name, mask in left.items() if not bool(mask.all())}
    return Cut(result, left, changes)


def _move_constants(step: Read, tensors: _Tensors, solution: Solution) -> None:
    """Add what goes and is constant to the bias, or to the column of the constant that stands in."""
    count = len(step.constant)
    gone = torch.zeros(count, dtype=torch.bool)
    gone[step.index] = solution.of(step.columns)
    moved = gone & (step.constant != 0) & ~step.constant.isnan()
    carrier = solution.carriers.get(step)
    if not bool(moved.any()) or (carrier is None and not step.takes_constants):  # else no row that is needed reads them
        return
    weight = tensors.get(step.weight)
    mask = tensors.masks.get(step.weight)
    groups, rows, _ = step.kept.shape
    wide = _matrix(weight.to("cpu", torch.float64), step, groups, rows)
    read = (step.kept & moved.view(groups, 1, -1)).any(2).flatten()
    if not bool(read.any()):
        return
    if carrier is None:
        assert step.bias is not None
        amount = torch.where(moved, step.constant, 0.0).view(groups, 1, -1)
        add = (wide.flatten(3).sum(3) * amount).sum(2).flatten()
        like = tensors.get(step.bias) if step.bias in tensors.old or step.bias in tensors.new else None
        before = torch.zeros_like(add) if like is None else like.to("cpu", torch.float64)
        made = (before + add).to(weight.device, weight.dtype if like is None else like.dtype)
        tensors.new[step.bias] = made
        if step.bias in tensors.masks:
            tensors.masks[step.bias] = tensors.masks[step.bias] | read.to(tensors.masks[step.bias].device)
        return
    share = torch.where(moved, step.constant / step.constant[carrier], 0.0)
    axis = 1 - step.out_axis
    sides = [1] * weight.dim()
    sides[axis] = -1
    full = weight.to("cpu", torch.float64)
    merged = full.select(axis, carrier) + (full * share.view(sides)).sum(axis)
    new = weight.clone()
    new.select(axis, carrier).copy_(merged)
    tensors.new[step.weight] = new
    if mask is not None:
        mask = mask.clone()
        mask.select(axis, carrier).copy_(
            mask.select(axis, carrier) | (mask & moved.view(sides).to(mask.device)).any(axis)
        )
        tensors.masks[step.weight] = mask


def _matrix(weight: Tensor, step: Read, groups: int, rows: int) -> Tensor:
    """``(groups, rows, columns, positions…)``."""
    weight = weight.transpose(0, 1) if step.out_axis else weight
    return weight.reshape(groups, rows, *weight.shape[1:]).unsqueeze(-1)


def _kept(facts: Facts, solution: Solution) -> dict[str, dict[int, Tensor]]:
    """By name and axis, which slices stay."""
    kept: dict[str, dict[int, Tensor]] = {}
    for axis in facts.axes:
        own = torch.ones(int(axis.index.max()) + 1, dtype=torch.bool)
        own[axis.index] = ~solution.of(axis.atoms)
        kept.setdefault(axis.name, {})[axis.axis] = own
    for whole in facts.wholes:
        stays = box(solution.of(distinct(whole.labels)))
        kept[whole.name] = {axis: stays[axis] for axis in varying(whole.labels)}
    return kept


def _cut_groups(
    step: Read,
    kept: dict[str, dict[int, Tensor]],
    tensors: _Tensors,
    solution: Solution,
    groups: dict[str, int],
    changes: dict[str, Change],
) -> None:
    count, rows, columns = step.kept.shape
    stays_out = ~solution.of(step.rows).view(count, rows)
    stays_in = torch.ones(count * columns, dtype=torch.bool)
    stays_in[step.index] = ~solution.of(step.columns)
    stays_in = stays_in.view(count, columns)
    kept[step.weight].pop(0)
    if bool(stays_out.all()) and bool(stays_in.all()):
        return
    some = stays_out.any(1).nonzero().flatten().tolist()

    def smaller(x: Tensor) -> Tensor:
        parts = x.view(count, rows, *x.shape[1:])
        own = [parts[g][stays_out[g].to(x.device)][:, stays_in[g].to(x.device)] for g in some]
        return torch.cat(own).contiguous()

    x = tensors.get(step.weight)
    tensors.new[step.weight] = smaller(x)
    if step.weight in tensors.masks:
        tensors.masks[step.weight] = smaller(tensors.masks[step.weight])
    groups[step.weight.rpartition(".")[0]] = len(some)
    indices = _indices(stays_out.flatten()), _indices(stays_in.flatten())
    rest = (None,) * (x.dim() - 2)
    changes[step.weight] = Change(tuple(x.shape), tuple(tensors.new[step.weight].shape), (*indices, *rest))


def _indices(stays: Tensor) -> tuple[int, ...] | None:
    return None if bool(stays.all()) else tuple(stays.nonzero().flatten().tolist())


def _cut_axes(name: str, axes: Mapping[int, Tensor], tensors: _Tensors, changes: dict[str, Change]) -> None:
    if name not in tensors.old and name not in tensors.new:
        return
    x, mask = tensors.get(name), tensors.masks.get(name)
    before = tuple(x.shape)
    for axis, stays in axes.items():
        if bool(stays.all()):
            continue
        index = stays.nonzero().flatten()
        x = x.index_select(axis, index.to(x.device))
        mask = None if mask is None else mask.index_select(axis, index.to(mask.device))
    if tuple(x.shape) == before:
        return
    tensors.new[name] = x
    if mask is not None:
        tensors.masks[name] = mask
    kept = tuple(_indices(axes[axis]) if axis in axes else None for axis in range(x.dim()))
    changes[name] = Change(before if name in tensors.old else None, tuple(x.shape), kept)


def _heads(net: nn.Module, facts: Facts, solution: Solution) -> dict[str, dict[str, int]]:
    """By path, the integer attributes that count heads of which some go, and how many are left."""
    found: dict[str, dict[str, int]] = {}
    for limit in facts.limits:
        if not isinstance(limit, Rect):
            continue
        axes, gone = varying(limit.labels), solution.of(distinct(limit.labels))
        if len(axes) < 2 or not bool(gone.any()):
            continue
        stays = box(gone)
        for axis in axes:
            before, after = limit.labels.shape[axis], int(stays[axis].sum())
            for name, value in vars(net.get_submodule(limit.path)).items():
                counts = "head" in name and not any(word in name for word in ("dim", "size", "width"))
                if after < before and counts and type(value) is int and value == before:
                    found.setdefault(limit.path, {})[name] = after
    return found


def _fit(
    net: nn.Module,
    masks: Mapping[str, Tensor],
    prepared: Prepared,
    tensors: _Tensors,
    groups: Mapping[str, int],
    heads: Mapping[str, Mapping[str, int]],
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Put the new tensors into a copy of ``net``, in which only that attention is opened of which something went."""
    result = copied(net)
    left = dict(masks)
    opened = [path for path in prepared.opened if any(name.startswith(prefix_of(path)) for name in tensors.new)]
    for path in opened:
        prefix = prefix_of(path)
        left = {name: mask for name, mask in left.items() if not name.startswith(prefix)}
        left |= {name: mask for name, mask in prepared.masks.items() if name.startswith(prefix)}
    result = Surgery(composites={path: prepared.opened[path] for path in opened}).apply(result)
    left = {name: tensors.masks.get(name, mask) for name, mask in left.items()}
    by_path: dict[str, dict[str, Tensor]] = {path: {} for path in heads}
    for name, x in tensors.new.items():
        path, _, leaf = name.rpartition(".")
        by_path.setdefault(path, {})[leaf] = x
    for path, own in by_path.items():
        module = result.get_submodule(path)
        settings = dict(heads.get(path, {}))
        if path in groups:
            settings["groups"] = groups[path]
        elif (
            isinstance(module, _CONVOLUTIONS) and 1 < module.groups == module.in_channels and "weight" in own
        ):  # depthwise
            settings["groups"] = own["weight"].shape[0] * module.groups // module.out_channels
        refit(module, own, **settings)
    return result, left
