"""Validation of user input (nets, masks, variances, examples) at the door of the sparse half."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from bayesprune._memory import check_memory
from bayesprune._state_dicts import is_unset

__all__ = [
    "all_finite",
    "call",
    "check_masks",
    "check_means",
    "check_net",
    "check_variances",
    "each_tensor",
    "run_example",
    "shared_names",
    "without_fast_paths",
]


def _names(names: Iterable[str], most: int = 8) -> str:
    listed = list(names)
    more = f", … ({len(listed)} in all)" if len(listed) > most else ""
    return ", ".join(repr(name) for name in listed[:most]) + more


def shared_names(net: nn.Module) -> dict[str, list[str]]:
    """Each parameter's names, its own included: more than one where a parameter or a module is used twice."""
    names: dict[int, list[str]] = {}
    found = list(net.named_parameters(remove_duplicate=False))
    for name, parameter in found:
        names.setdefault(id(parameter), []).append(name)
    return {name: names[id(parameter)] for name, parameter in found}


def all_finite(x: Tensor) -> bool:
    """Whether ``x`` holds no NaN and no infinity, without a copy of it.

    >>> all_finite(torch.tensor([1.0, torch.nan])), all_finite(torch.ones(2))
    (False, True)
    """
    if not x.is_floating_point() or not x.numel():
        return bool(torch.isfinite(x).all())
    x = x.float() if x.itemsize == 1 else x
    return bool(torch.isfinite(torch.stack(x.aminmax())).all())  # NaN is the least and the largest of all


def check_net(net: nn.Module) -> None:
    """Raise ``ValueError`` unless ``net`` is a module whose parts can be exchanged and whose tensors are their own."""
    if not isinstance(net, nn.Module):
        raise ValueError(f"net must be an nn.Module, got {type(net).__name__}")
    if isinstance(net, torch.jit.ScriptModule):
        raise ValueError("net must be the nn.Module itself, not what TorchScript made of it")
    check_memory(net)


def _check_names(
    what: str, kind: str, given: object, known: Mapping[str, Tensor], told: str = "its parameters are"
) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} must be a dict of name -> {kind}, got {type(given).__name__}")
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"{what} name {_names(unknown)}, which the net lacks; {told} {_names(known)}")


def check_masks(net: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` unless ``masks`` are bool tensors in the shapes of parameters of ``net``."""
    parameters = dict(net.named_parameters(remove_duplicate=False))
    _check_names("masks", "bool tensor", masks, parameters)
    for name, mask in masks.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"the mask of {name!r} must be a bool tensor, got {got}; write mask != 0")
        if mask.shape != parameters[name].shape:
            raise ValueError(
                f"the mask of {name!r} must have the weight's shape {tuple(parameters[name].shape)}, "
                f"got {tuple(mask.shape)}"
            )
        if parameters[name].is_meta or mask.is_meta:
            raise ValueError(f"{name!r} is on the meta device and holds no values; load the weights first")
    for name, names in shared_names(net).items():
        for other in names:
            if name in masks and other in masks and not torch.equal(masks[name].cpu(), masks[other].cpu()):
                raise ValueError(f"{name!r} and {other!r} are one shared parameter, but their masks differ")


def check_means(net: nn.Module, means: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` unless ``means`` are finite tensors in the shapes of the net's parameters and buffers.

    A buffer that is None in the net takes any shape: a forward makes it of the data.
    """
    parameters = dict(net.named_parameters(remove_duplicate=False))
    targets = parameters | dict(net.named_buffers(remove_duplicate=False))
    unset = {name: mean for name, mean in means.items() if isinstance(mean, Tensor) and is_unset(net, name)}
    targets |= unset
    _check_names("means", "tensor", means, targets, "it has")
    for name, mean in means.items():
        if not isinstance(mean, Tensor) or mean.shape != targets[name].shape:
            got = tuple(mean.shape) if isinstance(mean, Tensor) else type(mean).__name__
            raise ValueError(f"the mean of {name!r} must be a tensor of shape {tuple(targets[name].shape)}, got {got}")
        if name in parameters and not all_finite(mean):
            raise ValueError(f"the mean of {name!r} holds NaN or infinity; the fit has diverged")
    for name, names in shared_names(net).items():
        for other in names:
            if name in means and other in means and not torch.equal(means[name], means[other]):
                raise ValueError(f"{name!r} and {other!r} are one shared parameter, but their means differ")


def check_variances(net: nn.Module, variances: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` unless ``variances`` are numbers ≥ 0 in the shapes of parameters of ``net``."""
    parameters = dict(net.named_parameters(remove_duplicate=False))
    _check_names("variances", "tensor", variances, parameters)
    for name, variance in variances.items():
        shape = tuple(parameters[name].shape)
        if not isinstance(variance, Tensor) or tuple(variance.shape) != shape or not variance.is_floating_point():
            kind = variance.dtype if isinstance(variance, Tensor) else type(variance).__name__
            got = f"{kind} of shape {tuple(variance.shape)}" if isinstance(variance, Tensor) else kind
            raise ValueError(f"the variance of {name!r} must be floating-point of shape {shape}, got {got}")
        if variance.is_meta:
            raise ValueError(f"the variance of {name!r} is on the meta device and holds no values")
        if not bool((variance >= 0).all()):
            raise ValueError(f"the variance of {name!r} holds a negative number or NaN; the fit has diverged")


def each_tensor(value: object, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with each tensor in it changed; what was one tensor twice, as the query and key of attention, stays so.

    >>> x = torch.ones(1)
    >>> first, second = each_tensor((x, x), torch.neg)
    >>> first is second
    True
    """
    found: dict[int, Tensor] = {}

    def once(x: object) -> object:
        if not isinstance(x, Tensor):
            return x
        if id(x) not in found:
            found[id(x)] = change(x)
        return found[id(x)]

    return tree_map(once, value)


def call(net: nn.Module, example: object) -> object:
    """``net`` on a copy of ``example``, which it may write into; a tuple is its arguments, a dict its named ones."""
    example = each_tensor(example, Tensor.clone)
    if isinstance(example, Mapping):
        return net(**example)
    if isinstance(example, tuple | list):
        return net(*example)
    return net(example)


@contextmanager
def without_fast_paths() -> Iterator[None]:
    """Within, torch's transformer layers call their own layers, not one operator that passes over these."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def run_example(net: nn.Module, example: object) -> None:
    """Run ``net`` on ``example`` once. Raises ``ValueError`` where there is no input or the net refuses it."""
    parts = list(example.values()) if isinstance(example, Mapping) else example
    tensors = [t for t in (parts if isinstance(parts, tuple | list) else [parts]) if isinstance(t, Tensor)]
    if not tensors:
        raise ValueError(
            "example must be an input batch of the net (a tensor, or a tuple or dict of its arguments), "
            f"got {type(example).__name__}"
        )
    for tensor in tensors:
        if not tensor.numel():
            raise ValueError(f"example holds no data: shape {tuple(tensor.shape)}; give a batch of at least one input")
    try:
        with torch.no_grad():
            call(net, example)
    except Exception as error:
        shapes = ", ".join(f"{tuple(t.shape)} {t.dtype} on {t.device}" for t in tensors)
        raise ValueError(f"the net cannot run on the example given ({shapes}): {error}") from error
