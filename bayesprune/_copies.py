"""Copies of nets: what a hook computes before each call is no leaf, and torch's deepcopy refuses it."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_leaves

__all__ = ["computed", "copied", "on_its_own", "recompute"]

_WITHOUT = ("_parameters", "_modules")  # a parameter is a leaf, and a module is looked at itself
_PLAIN = (bool, int, float, str, type(None))


def computed(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that a hook hangs onto ``module`` before each call: ``weight_norm``, ``spectral_norm`` and ``prune``.

    >>> sorted(computed(torch.nn.utils.prune.identity(nn.Linear(2, 2), "weight")))
    ['weight']
    """
    if not module._forward_pre_hooks:
        return {}
    return {name: x for name, x in vars(module).items() if isinstance(x, Tensor)}


@torch.no_grad()
def recompute(net: nn.Module) -> nn.Module:
    """Work out anew what torch's own hooks compute of the parameters, in place; returns the net."""
    for module in net.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm | SpectralNorm | BasePruningMethod):
                hook(module, ())
    return net


def copied(net: nn.Module, instead: Mapping[Tensor, Tensor] = MappingProxyType({})) -> nn.Module:
    """A deep copy of ``net``; what is part of a graph is copied as a value.

    Args:
        net: any module.
        instead: what takes the place of a tensor in the copy, which may be the tensor itself.

    Raises:
        ValueError: a module holds what cannot be copied; it is named.

    >>> layer = torch.nn.utils.prune.identity(nn.Linear(2, 2), "weight")
    >>> torch.equal(copied(layer).weight, layer.weight)
    True
    """
    memo: dict[int, object] = {id(x): other for x, other in instead.items()}
    for module in net.modules():
        own = [value for name, value in vars(module).items() if name not in _WITHOUT and type(value) not in _PLAIN]
        for x in tree_leaves([value for value in own if not _is_empty(value)]):
            if isinstance(x, Tensor) and not x.is_leaf:
                memo.setdefault(id(x), x.detach().clone())
    try:
        return copy.deepcopy(net, memo)
    except Exception as error:  # whatever a class of the user's does when it is copied
        path, kind = _uncopied(net, memo)
        raise ValueError(
            f"the net cannot be copied: {path or 'the net itself'} ({kind}) holds what deepcopy refuses: {error}"
        ) from error


@contextmanager
def on_its_own(net: nn.Module) -> Iterator[None]:
    """Within, copies of ``net`` run; where one of them has called a module of ``net`` itself, that is refused.

    A function that a net holds, with the net in its closure, is not copied: it goes on calling the net it was made in.

    Raises:
        ValueError: at the end of the block; the module is named.
    """
    paths, called, thread = {id(module): path for path, module in net.named_modules()}, list[str](), get_ident()

    def note(module: nn.Module, _args: object) -> None:
        if id(module) in paths and get_ident() == thread:
            called.append(paths[id(module)])

    handle = register_module_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()
    if called:
        raise ValueError(
            f"a copy of the net calls {called[0] or 'the net'!r} of the net itself, and would compute with it: "
            "a function that the net holds has the net in its closure; make it a method"
        )


def _is_empty(value: object) -> bool:
    return isinstance(value, dict | list | tuple | set) and not value


def _uncopied(net: nn.Module, memo: dict[int, object]) -> tuple[str, str]:
    """The path and class of the innermost module that cannot be copied."""
    found = "", type(net).__name__
    for path, module in net.named_modules():
        try:
            copy.deepcopy(module, dict(memo))
        except Exception:  # as above
            found = path, type(module).__name__
    return found
