"""Activations worked out inside the sparse product before them, where the net has the two next to each other."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from bayesprune.sparse.checks import call
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.linear import SparseLinear

__all__ = ["fuse", "silence"]


def _name(module: nn.Module) -> str:
    if type(module) is nn.ReLU:
        return "relu"
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    return ""


def _plain(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and "forward" not in vars(module)


def _close(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return bool(torch.allclose(a, b, rtol=1e-2, atol=1e-3, equal_nan=True))
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(_close(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b)


def fuse(net: nn.Module, example: object) -> list[str]:
    """Move each ReLU or GELU that follows a packed layer in an ``nn.Sequential`` into the layer, in place.

    An ``nn.Identity`` takes the activation's place. A net that reads the layers of its ``nn.Sequential`` one by one
    would compute something else then: outputs on ``example`` are compared, and where they differ all stays as it was.

    Returns:
        The paths of the layers that now hold an activation.
    """
    places: list[tuple[nn.Sequential, str, str, SparseLinear, str]] = []
    modules = [m for _, m in net.named_modules(remove_duplicate=False)]
    for path, parent in net.named_modules():
        if type(parent) is not nn.Sequential:
            continue
        children = list(parent._modules.items())
        for (one, layer), (two, after) in pairwise(children):
            if (
                isinstance(layer, SparseLinear)
                and after is not None
                and _name(after)
                and not layer.activation
                and KERNELS[layer.kernel].fuses
                and _plain(layer)
                and _plain(after)
                and sum(m is layer for m in modules) == 1
            ):
                places.append((parent, f"{path}.{one}" if path else one, two, layer, _name(after)))
    if not places:
        return []
    with torch.no_grad():
        before = call(net, example)
        kept = [parent._modules[two] for parent, _, two, _, _ in places]
        for parent, _, two, layer, name in places:
            layer.activation, parent._modules[two] = name, nn.Identity().train(layer.training)
        if _close(before, call(net, example)):
            return [path for _, path, *_ in places]
    for (parent, _, two, layer, _), module in zip(places, kept, strict=True):
        layer.activation, parent._modules[two] = "", module
    return []


def silence(net: nn.Module, path: str, activation: str) -> None:
    """Take out the activation after the layer ``path``, which now holds it; in a net where that was not done yet."""
    parent_path, _, leaf = path.rpartition(".")
    parent = net.get_submodule(parent_path)
    for one, two in pairwise(parent._modules):
        after = parent._modules[two]
        if one == leaf and after is not None and _name(after) == activation:
            parent._modules[two] = nn.Identity().train(after.training)
