"""Apply a compaction: slice parameters and buffers, and fold constants into biases."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

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
    """What became of one parameter or buffer, or of a size that a module holds in an integer.

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


def cut(
    net: nn.Module,
    masks: Mapping[str, Tensor],
    prepared: Prepared,
    facts: Facts,
    solution: Solution,
    attributes: Mapping[str, Mapping[str, int | tuple[int, ...]]] = MappingProxyType({}),
) -> Cut:
    """A copy of ``net`` without what goes.

    Args:
        net: masked, as it came.
        masks: its masks.
        prepared: what was analysed.
        facts: what was found in it.
        solution: what goes.
        attributes: by module, sizes that it holds in integers, as they are to be.
    """
    tensors = _Tensors(prepared.net, prepared.masks)
    moved: set[str] = set()
    for step in facts.steps:
        if isinstance(step, Read) and step.weight not in moved:  # a layer that is called twice takes them once
            moved.add(step.weight)
            _move_constants(step, tensors, solution)
    kept = _kept(facts, solution)
    groups: dict[str, int] = {}
    changes: dict[str, Change] = {}
    for step in {step.weight: step for step in facts.steps if isinstance(step, Read)}.values():
        if len(step.kept) > 1:
            _cut_groups(step, kept, tensors, solution, groups, changes)
    for name, axes in kept.items():
        _cut_axes(name, axes, tensors, changes)
    for name, x in tensors.new.items():
        before = tensors.old.get(name)
        old = None if before is None else tuple(before.shape)
        changes.setdefault(name, Change(old, tuple(x.shape), (None,) * x.dim()))
    settings: dict[str, dict[str, int | tuple[int, ...]]] = {}
    for path, own in (*_heads(prepared.net, facts, solution).items(), *attributes.items()):
        settings.setdefault(path, {}).update(own)
    for path, own in attributes.items():
        for name, value in own.items():
            before = getattr(prepared.net.get_submodule(path), name)
            changes[prefix_of(path) + name] = Change(_shape(before), _shape(value), (None,) * len(_shape(value)))
    result, left = _fit(net, masks, prepared, tensors, groups, settings)
    left = {name: mask for name, mask in left.items() if not bool(mask.all())}
    return Cut(result, left, changes)


def _shape(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else size


def _move_constants(step: Read, tensors: _Tensors, solution: Solution) -> None:
    """Add what goes and is constant to the bias, or to the column of the constant that stands in."""
    gone = torch.zeros(len(step.constant), dtype=torch.bool)
    gone[step.index] = solution.of(step.columns)
    moved = gone & (step.constant != 0) & ~step.constant.isnan()
    groups = len(step.kept)
    read = step.kept & moved.view(groups, 1, -1)
    if not bool(read.any()):
        return
    if bool((moved & step.takes).any()):
        _into_bias(step, tensors, moved & step.takes)
    families = step.families
    for family, carrier in solution.carriers.get(step.weight, {}).items():
        mine = moved & ~step.takes & (families == family)
        if bool(mine.any()):
            _into_column(step, tensors, mine, carrier)


def _into_bias(step: Read, tensors: _Tensors, moved: Tensor) -> None:
    assert step.bias is not None
    groups = len(step.kept)
    weight = tensors.get(step.weight)
    wide = _by_group(weight.to("cpu", torch.float64), step)
    amount = torch.where(moved, step.constant, 0.0).view(groups, 1, -1)
    add = ((wide.flatten(3).sum(3) if wide.dim() > 3 else wide) * amount).sum(2).flatten()
    like = tensors.get(step.bias) if step.bias in tensors.old or step.bias in tensors.new else None
    before = torch.zeros_like(add) if like is None else like.to("cpu", torch.float64)
    tensors.new[step.bias] = (before + add).to(weight.device, weight.dtype if like is None else like.dtype)
    if step.bias in tensors.masks:
        read = (step.kept & moved.view(groups, 1, -1)).any(2).flatten()
        tensors.masks[step.bias] = tensors.masks[step.bias] | read.to(tensors.masks[step.bias].device)


def _into_column(step: Read, tensors: _Tensors, moved: Tensor, carrier: int) -> None:
    group, place = divmod(carrier, step.kept.shape[2])
    own = moved.view(len(step.kept), -1)[group]
    share = torch.where(moved, step.constant / step.constant[carrier], 0.0).view(len(step.kept), -1)[group]
    weight = tensors.get(step.weight)
    wide = _by_group(weight.to("cpu", torch.float64), step)[group]
    merged = wide[:, place] + (wide * share.view(-1, *[1] * (wide.dim() - 2))).sum(1)
    new = weight.clone(memory_format=torch.contiguous_format)
    _by_group(new, step)[group][:, place] = merged.to(new)
    tensors.new[step.weight] = new
    mask = tensors.masks.get(step.weight)
    if mask is not None:
        mask = mask.clone(memory_format=torch.contiguous_format)
        kept = _by_group(mask, step)[group]
        kept[:, place] = kept[:, place] | kept[:, own.to(mask.device)].any(1)
        tensors.masks[step.weight] = mask


def _by_group(weight: Tensor, step: Read) -> Tensor:
    """A view ``(groups, rows, columns, positions…)`` of a weight."""
    weight = weight.transpose(0, 1) if step.out_axis else weight
    return weight.reshape(len(step.kept), -1, *weight.shape[1:]) if len(step.kept) > 1 else weight.unsqueeze(0)


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
    attributes: Mapping[str, Mapping[str, int | tuple[int, ...]]],
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
    by_path: dict[str, dict[str, Tensor]] = {path: {} for path in attributes}
    for name, x in tensors.new.items():
        path, _, leaf = name.rpartition(".")
        by_path.setdefault(path, {})[leaf] = x
    for path, own in by_path.items():
        module = result.get_submodule(path)
        settings = dict(attributes.get(path, {}))
        if path in groups:
            settings["groups"] = groups[path]
        elif (
            isinstance(module, _CONVOLUTIONS) and 1 < module.groups == module.in_channels and "weight" in own
        ):  # depthwise
            settings["groups"] = own["weight"].shape[0] * module.groups // module.out_channels
        refit(module, own, **settings)
    return result, left
