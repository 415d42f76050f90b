"""Size attributes of modules (``in_features``, ``num_features``), updated when a module is made smaller."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Size", "SizeChange", "carry", "full", "refit", "resize", "shrunk", "sizes"]

Size = int | tuple[int, ...] | None  # an attribute, a tensor's shape, or a tensor that is not there
SizeChange = tuple[Size, Size]  # what it was, and what it is

_FEATURES = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), ("num_features",))
_CONVOLUTION = {"weight": ("out_channels", "in_channels/groups"), "bias": ("out_channels",)}
_TRANSPOSED = {"weight": ("in_channels", "out_channels/groups"), "bias": ("out_channels",)}
_EMBEDDING = {"weight": ("num_embeddings", "embedding_dim")}

# By tensor, the attribute that each axis tells; "a/b" where the axis is a divided by b. A new module is one line.
_AXES: Mapping[type[nn.Module], Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        nn.Linear: {"weight": ("out_features", "in_features"), "bias": ("out_features",)},
        nn.Bilinear: {"weight": ("out_features", "in1_features", "in2_features"), "bias": ("out_features",)},
        **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _CONVOLUTION),
        **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _TRANSPOSED),
        **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _FEATURES),
        **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _FEATURES),
        nn.GroupNorm: {"weight": ("num_channels",), "bias": ("num_channels",)},
        nn.PReLU: {"weight": ("num_parameters",)},
        **dict.fromkeys((nn.Embedding, nn.EmbeddingBag), _EMBEDDING),
    }
)


def _axes(module: nn.Module) -> Mapping[str, tuple[str, ...]]:
    return next((_AXES[kind] for kind in type(module).__mro__ if kind in _AXES), {})


def _tensor(module: nn.Module, name: str) -> Tensor | None:
    return module._parameters.get(name, module._buffers.get(name))


def _size(module: nn.Module, name: str) -> Size:
    """The attribute ``name``, or the shape of the module's own tensor of that name."""
    if name in module._parameters or name in module._buffers:
        x = _tensor(module, name)
        return None if x is None else tuple(x.shape)
    return getattr(module, name)


def sizes(module: nn.Module) -> dict[str, int]:
    """The attributes of one of torch.nn's layers that must agree with its tensors; empty for other modules.

    >>> sizes(nn.Conv2d(8, 16, 3, groups=2))
    {'out_channels': 16, 'in_channels': 8, 'groups': 2}
    """
    named = (part for axes in _axes(module).values() for axis in axes for part in axis.split("/"))
    return {name: getattr(module, name) for name in dict.fromkeys(named)}


def _alike(own: object, size: object) -> bool:
    """Whether ``own``, an attribute, is an integer or a tuple of as many integers, as ``size`` is."""
    if type(own) is int or type(size) is int:
        return type(own) is type(size)
    if not isinstance(own, tuple) or not isinstance(size, tuple) or len(own) != len(size):
        return False
    return all(type(one) is int for one in (*own, *size))


def refit(module: nn.Module, tensors: Mapping[str, Tensor], **settings: int | tuple[int, ...]) -> None:
    """Give ``module`` other tensors, set the attributes that follow from them, and note what these were before.

    What they were at the very first is kept in ``module.full_sizes``, from which the file knows the net as its classes
    make it (see :func:`bayesprune.save`).

    Args:
        module: changed in place; of torch.nn's layers the sizes follow, of others the tensors alone change.
        tensors: its own parameters and buffers by their names there. A parameter stays one, with or without gradient; a
            bias may be given where there was none.
        settings: integer attributes that no tensor tells, such as ``groups``, ``num_groups`` or ``num_heads``, or
            tuples of integers, such as ``unflattened_size``.

    Raises:
        ValueError: the module has no such tensor or attribute.

    >>> conv = nn.Conv2d(8, 16, 3, groups=2, bias=False)
    >>> refit(conv, {"weight": conv.weight[:4], "bias": torch.zeros(4)}, groups=1)
    >>> conv, conv.full_sizes
    (Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1)), {'out_channels': 16, 'in_channels': 8, 'groups': 2, 'bias': None})
    """
    axes = _axes(module)
    unknown = [name for name in tensors if name not in module._parameters and name not in module._buffers]
    unknown += [name for name, value in settings.items() if not _alike(vars(module).get(name), value)]
    if unknown:
        raise ValueError(f"{type(module).__name__} has no tensor or integer {', '.join(unknown)} of its own")
    noted = {*settings, *(name for name in tensors if name not in axes or _tensor(module, name) is None)}
    before = {**sizes(module), **{name: _size(module, name) for name in sorted(noted)}}
    for name, x in tensors.items():
        old = _tensor(module, name)
        if name in module._parameters and not isinstance(x, nn.Parameter):
            trained = x.is_floating_point() if old is None else old.requires_grad
            x = nn.Parameter(x.detach().clone(memory_format=torch.contiguous_format), trained)
        setattr(module, name, x)
    for name, value in settings.items():
        setattr(module, name, value)
    for name, told in axes.items():
        sides = _size(module, name)
        for axis, side in zip(told, sides if isinstance(sides, tuple) else (), strict=False):
            attribute, _, divisor = axis.partition("/")
            setattr(module, attribute, side * (getattr(module, divisor) if divisor else 1))
    changed = {name: size for name, size in before.items() if _size(module, name) != size}
    if changed:
        module.full_sizes = {**changed, **getattr(module, "full_sizes", {})}  # type: ignore[assignment]


def full(module: nn.Module, name: str) -> Any:
    """The attribute ``name`` as it was before :func:`refit`.

    >>> layer = nn.Linear(6, 4)
    >>> refit(layer, {"weight": layer.weight[:, :2]})
    >>> layer.in_features, full(layer, "in_features"), full(layer, "out_features")
    (2, 6, 4)
    """
    noted: Mapping[str, Size] = getattr(module, "full_sizes", {})
    return noted[name] if name in noted else getattr(module, name)


def carry(old: nn.Module, new: nn.Module) -> None:
    """Note on ``new``, which takes the place of ``old``, what the sizes of ``old`` were at the very first."""
    if "full_sizes" in vars(old):
        new.full_sizes = vars(old)["full_sizes"]


def shrunk(net: nn.Module) -> dict[str, dict[str, SizeChange]]:
    """By the first path of each module, what :func:`refit` changed: each size as it was and as it is."""
    found = {}
    for path, module in net.named_modules():
        noted: Mapping[str, Size] = getattr(module, "full_sizes", {})
        changes = {name: (size, _size(module, name)) for name, size in noted.items()}
        changes = {name: (was, now) for name, (was, now) in changes.items() if was != now}
        if changes:
            found[path] = changes
    return found


def _is_smaller(was: Size, now: Size) -> bool:
    if isinstance(was, int) and isinstance(now, int):
        return 1 <= now <= was
    if not (isinstance(was, tuple) and isinstance(now, tuple) and len(was) == len(now)):
        return False
    return all(1 <= new <= old for old, new in zip(was, now, strict=True))


def _asked(module: nn.Module, changes: Mapping[str, SizeChange]) -> dict[str, tuple[int, ...]]:
    """Set the integers that ``changes`` name, each checked, and return the shapes that they name."""
    axes, kind = _axes(module), type(module).__name__
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (was, now) in changes.items():
        own = name in module._parameters or name in module._buffers
        held = vars(module).get(name)
        if not own and not _alike(held, held):
            raise ValueError(f"{kind} has no tensor or integer {name!r} of its own")
        if _size(module, name) != was:
            full_size = f"{was} before it was made smaller: give the net of full size"
            raise ValueError(f"{kind} has {name}={_size(module, name)}, and was {full_size}")
        if was is None and isinstance(now, tuple) and name in axes and name in module._parameters:
            shapes[name] = now
        elif not _is_smaller(was, now):
            raise ValueError(f"{kind} cannot shrink from {name}={was} to {now}")
        elif isinstance(now, tuple) and own:
            shapes[name] = now
        else:
            setattr(module, name, now)
    return shapes


def _told(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
    """Add the shapes that follow from the integers of one of torch.nn's layers to ``shapes``, which must agree."""
    kind = type(module).__name__
    for name, told in _axes(module).items():
        x = _tensor(module, name)
        if x is None and name not in shapes:
            continue
        wanted = []
        for axis in told:
            attribute, _, divisor = axis.partition("/")
            side, rest = divmod(getattr(module, attribute), getattr(module, divisor) if divisor else 1)
            if rest:
                raise ValueError(f"{kind} cannot have {attribute}={getattr(module, attribute)} in that many {divisor}")
            wanted.append(side)
        shape = (*wanted, *(() if x is None else x.shape[len(wanted) :]))
        if shapes.setdefault(name, shape) != shape:
            raise ValueError(f"{kind} cannot have {name} of shape {shapes[name]}, which should be {shape}")


def resize(module: nn.Module, changes: Mapping[str, SizeChange]) -> None:
    """Make ``module``, of full size, as small as ``changes`` say, in place; its tensors then hold no values.

    Raises:
        ValueError: it is not of full size, or what is asked for is not smaller or does not go together.

    >>> layer = nn.Linear(6, 4)
    >>> resize(layer, {"in_features": (6, 2)})
    >>> layer.weight.shape, layer.weight.is_meta
    (torch.Size([4, 2]), True)
    """
    shapes = _asked(module, changes)
    _told(module, shapes)
    like = module._parameters.get("weight")
    for name, shape in shapes.items():
        x = _tensor(module, name)
        kin = like if x is None else x
        empty = torch.empty(shape, dtype=None if kin is None else kin.dtype, device="meta")
        trained = empty.is_floating_point() if x is None else x.requires_grad
        setattr(module, name, nn.Parameter(empty, trained) if name in module._parameters else empty)
    module.full_sizes = {name: was for name, (was, _) in changes.items()}  # type: ignore[assignment]
