"""What every net made smaller has to keep: its results, on other batches too, and what the caller gave."""

import copy

import torch
from torch import Tensor, nn

from bayesprune.sparse.compact import Compacted, compact
from bayesprune.sparse.surgery.masked import masked_copy


def vivid(net: nn.Module) -> nn.Module:
    """The net in float64, no bias zero, no statistics the identity, so that each constant counts."""
    for name, p in net.named_parameters():
        if p.dim() == 1:
            nn.init.normal_(p, 1.0 if name.endswith("weight") else 0.3, 0.5)
    for module in net.modules():
        if isinstance(getattr(module, "running_var", None), Tensor):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2)
    return net.double()


def without(net: nn.Module, **slices: list[int] | tuple[int, list[int]]) -> dict[str, Tensor]:
    """Masks that empty slices, by weight (dots as double underscores): outputs, or those of the axis given first."""
    masks = {}
    for name, given in slices.items():
        name = name.replace("__", ".")
        axis, gone = given if isinstance(given, tuple) else (0, given)
        x = net.get_parameter(name)
        masks[name] = torch.ones(x.shape, dtype=torch.bool).index_fill(
            axis, torch.tensor(gone, dtype=torch.long), False
        )
    return masks


def some(net: nn.Module, share: float, axes: tuple[int, ...] = (0, 1)) -> dict[str, Tensor]:
    """Random masks over all weights: slices of each of the axes, and single entries."""
    masks = {}
    for name, p in net.named_parameters():
        if p.dim() < 2:
            continue
        mask = torch.rand(p.shape) >= share / 4
        for axis in axes:
            sides = [1] * p.dim()
            sides[axis] = -1
            mask &= (torch.rand(p.shape[axis]) >= share).view(sides)
        masks[name] = mask
    return masks


def same(a: object, b: object) -> bool:
    """Whether results are equal up to float64's roundings."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool((a - b).abs().max() <= 1e-10 * max(1.0, float(a.abs().max())))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a is None and b is None


def exact(
    net: nn.Module, masks: dict[str, Tensor], *examples: object, skip: tuple[str, ...] = (), frozen: bool = False
) -> Compacted:
    """Make a float64 net smaller on the first of ``examples``, and check all that has to hold on each of them."""
    before, shapes = copy.deepcopy(net.state_dict()), {name: m.shape for name, m in masks.items()}
    small = compact(net, {}, masks, example=examples[0], skip=skip)
    after = net.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert {name: m.shape for name, m in masks.items()} == shapes
    dense = masked_copy(net, {}, masks)
    for example in examples:
        args = example if isinstance(example, tuple) else (example,)
        with torch.no_grad():
            assert same(dense(*args), small.net(*args))
    tensors = {**dict(small.net.named_parameters(remove_duplicate=False)), **dict(small.net.named_buffers())}
    for name, change in small.changes.items():
        assert size(small, name) == change.new
        assert change.old is None or all(new <= old for new, old in zip(change.new, change.old, strict=True))
        for side, kept in zip(change.new, change.kept, strict=True):
            assert kept is None or len(kept) >= side
    for name, mask in small.masks.items():
        assert mask.shape == tensors[name].shape and not mask.all()
        assert not tensors[name][~mask].any()
    assert not any(module.training for module in small.net.modules())
    assert set(str(small).split()) >= set(small.changes)
    return small


def size(small: Compacted, name: str) -> tuple[int, ...]:
    """The shape of a parameter or buffer of the smaller net, or an integer that one of its modules holds."""
    path, _, leaf = name.rpartition(".")
    own = getattr(small.net.get_submodule(path), leaf)
    return (own,) if isinstance(own, int) else tuple(own.shape if isinstance(own, Tensor) else own)


def shape(small: Compacted, name: str) -> tuple[int, ...]:
    """The shape of a parameter of the smaller net."""
    return tuple(small.net.get_parameter(name).shape)
