"""Run a net on other values than its own, wherever in it they stand."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["as_parameters", "call_on", "everywhere"]


def everywhere(net: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``values`` by the name of every place in ``net`` that holds the same tensor: each place once.

    One module may have two names (``Sequential(m, relu, m)``), one tensor may be tied in two modules. torch's own
    ``functional_call(…, tie_weights=True)`` goes by names, and leaves the value in a module that has two of them.

    >>> m = nn.Linear(2, 2, bias=False)
    >>> list(everywhere(nn.Sequential(m, nn.ReLU(), m), {"0.weight": m.weight}))
    ['0.weight']

    Raises:
        ValueError: one tensor is given two values, by two of its names.
    """
    places: dict[int, list[str]] = {}
    first: dict[str, list[str]] = {}
    for path, module in net.named_modules():
        prefix = f"{path}." if path else ""
        for leaf, tensor in chain(module._parameters.items(), module._buffers.items()):
            if tensor is not None:
                found = places.setdefault(id(tensor), [])
                found.append(prefix + leaf)
                first[prefix + leaf] = found
    placed: dict[str, Tensor] = {}
    for name, value in values.items():
        for place in first.get(name, (name,)):
            other = placed.setdefault(place, value)
            if other is not value and not torch.equal(other, value):
                raise ValueError(
                    f"{' and '.join(repr(n) for n in first[name] if n in values)} are one tensor of the net, and are "
                    "given different values: give it one, by its first name"
                )
    return placed


def call_on(net: nn.Module, values: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
    """The result of ``net`` on ``values``, and these as its forward left them: it may have reassigned a buffer."""
    borrowed = everywhere(net, values)
    result = functional_call(net, borrowed, args, kwargs, tie_weights=False)
    return result, borrowed


def as_parameters(net: nn.Module, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Without gradients, ``values`` that want one where the net's own do: a forward may differentiate by them."""
    if torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return values
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    return {n: v.detach().requires_grad_() if n in trained and v.is_leaf else v for n, v in values.items()}
