"""Description of a net for a file's manifest, whatever way its tensors are stored."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from bayesprune.sparse.checks import all_finite
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.saving.rebuild import CannotRebuildError, describe

__all__ = ["check_savable", "is_channels_last", "named_tensors", "net_as_json", "unique_tensors"]

Kind = Literal["parameter", "buffer"]


def named_tensors(net: nn.Module) -> Iterator[tuple[Kind, str, Tensor]]:
    """Kind, name and tensor of every parameter and buffer, under each of its names; but no posterior variance."""
    for name, parameter in net.named_parameters(remove_duplicate=False):
        yield "parameter", name, parameter
    for name, buffer in net.named_buffers(remove_duplicate=False):
        path, _, leaf = name.rpartition(".")
        if leaf != "variance" or not isinstance(net.get_submodule(path), SparseLinear):
            yield "buffer", name, buffer


def unique_tensors(net: nn.Module) -> tuple[dict[str, tuple[Kind, Tensor]], dict[str, str]]:
    """Kind and tensor of every parameter and buffer by its first name, and the first name of each further one."""
    found: dict[str, tuple[Kind, Tensor]] = {}
    ties: dict[str, str] = {}
    first: dict[int, str] = {}
    for kind, name, x in named_tensors(net):
        if id(x) in first:
            ties[name] = first[id(x)]
        else:
            first[id(x)] = name
            found[name] = kind, x
    return found, ties


_LAYOUTS = (torch.contiguous_format, torch.channels_last)


def is_channels_last(x: Tensor) -> bool:
    """Whether a tensor lies in memory channels-last, and in no other way."""
    if x.dim() != 4:
        return False
    plain, last = (torch.empty(x.shape, device="meta", memory_format=f).stride() for f in _LAYOUTS)
    return x.stride() == last != plain  # by strides: with one channel or one position a tensor counts as contiguous too


def check_savable(net: object) -> None:
    """Raise ``ValueError`` unless ``net`` is a module of finite tensors that a file can hold."""
    if not isinstance(net, nn.Module):
        raise ValueError(f"save needs an nn.Module, got {type(net).__name__}")
    for path, module in net.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise ValueError(
                f"{path or 'the net'} ({type(module).__name__}) has extra state, which the file cannot hold"
            )
    for kind, name, x in named_tensors(net):
        if x.is_meta:
            raise ValueError(f"{name!r} is on the meta device and holds no values")
        if kind == "parameter" and x.is_floating_point() and not all_finite(x):
            raise ValueError(f"the parameter {name!r} holds NaN or infinity")


def net_as_json(net: nn.Module, tensors: int) -> tuple[dict[str, object] | None, str]:
    """The net of so many tensors as JSON, and empty; or None, and why it has to be given to :func:`load`."""
    try:
        return describe(net, tensors), ""
    except CannotRebuildError as error:
        return None, str(error)
