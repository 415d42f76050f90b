"""Which weights can run packed, and in words why the others cannot."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.layout import layout_of
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.checks import run_example, shared_names, without_fast_paths
from bayesprune.sparse.formats import SparseWeight
from bayesprune.sparse.layers.composite import hooked
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.layers.linear import SparseLinear

__all__ = ["conv_geometry", "observe", "obstacle", "packed_layer", "weight_matrix"]

_OWN_ATTRIBUTES = frozenset(
    name for made in (nn.Linear(1, 1, device="meta"), nn.Conv2d(1, 1, 1, device="meta")) for name in vars(made)
) | {"full_sizes", "nf", "nx"}  # what sizes were, and a Conv1D's own


def _passes_over(module: nn.Module) -> bool:
    """Whether ``module`` reads the weights of the layers within, in place of calling them."""
    if type(module) is nn.TransformerEncoderLayer:
        return False  # surgery takes its fast path away
    return isinstance(module, (nn.MultiheadAttention, nn.TransformerEncoderLayer))


def _is_hf_conv1d(owner: nn.Module) -> bool:
    # Known by name alone, so that transformers is not needed; and so its arithmetic is tried before it is believed.
    weight, bias = owner._parameters.get("weight"), owner._parameters.get("bias")
    if type(owner).__name__ != "Conv1D" or not hasattr(owner, "nf") or weight is None or bias is None:
        return False
    x = torch.linspace(-1, 1, weight.shape[0], dtype=weight.dtype, device=weight.device)[None]
    try:
        with torch.no_grad():
            return torch.allclose(owner.forward(x), F.linear(x, weight.T, bias), rtol=1e-2, atol=1e-3)
    except (RuntimeError, TypeError, ValueError):
        return False


def _has_more(owner: nn.Module) -> str | None:
    """What a layer has beyond torch's own, which a packed one in its place would lack; None where nothing."""
    kind = type(owner)
    if not kind.__module__.startswith("torch.nn.modules.") and not _is_hf_conv1d(owner):
        return f"{kind.__name__} is a class of its own, which may have more than torch's forward"
    given = [name for name in vars(owner) if not name.startswith("_") and name not in _OWN_ATTRIBUTES]
    return f"{kind.__name__} was given {', '.join(given)}" if given else None


def _computes_linear(owner: nn.Module) -> bool:
    return (isinstance(owner, nn.Linear) and type(owner).forward is nn.Linear.forward) or _is_hf_conv1d(owner)


def conv_geometry(owner: nn.Module) -> Geometry | None:
    """How ``owner`` walks over its input, where it is an ``nn.Conv2d`` that can run packed."""
    if not isinstance(owner, nn.Conv2d) or type(owner).forward is not nn.Conv2d.forward:
        return None
    if owner.padding_mode != "zeros" or isinstance(owner.padding, str):
        return None
    pairs = ((size[0], size[1]) for size in (owner.kernel_size, owner.stride, owner.padding, owner.dilation))
    kernel, stride, padding, dilation = pairs
    return Geometry(kernel, stride, padding, dilation, owner.groups)


def packed_layer(
    owner: nn.Module, packed: SparseWeight, kernel: str, activation: str = "", contiguous: bool = False
) -> SparseLinear:
    """What takes the place of ``owner``, a linear layer or a convolution, with its bias."""
    bias, geometry = owner._parameters["bias"], conv_geometry(owner)
    if geometry is not None:
        return SparseConv2d(packed, bias, geometry, kernel, activation, contiguous)
    if isinstance(owner, SparseConv2d):
        return SparseConv2d(packed, bias, owner.geometry, kernel, activation, contiguous)
    return SparseLinear(packed, bias, kernel, activation)


def obstacle(net: nn.Module, name: str, called: Mapping[str, torch.Size]) -> str | None:
    """Why the weight ``name`` cannot run packed in ``net``; None where it can.

    Args:
        net: the net.
        name: a parameter's dotted name.
        called: the modules that ran on the example, by their paths.

    >>> obstacle(nn.Sequential(nn.Conv1d(1, 1, 1)), "0.weight", {})
    'Conv1d has no sparse kernel'
    """
    path, _, leaf = name.rpartition(".")
    owner = net.get_submodule(path)
    kind = type(owner).__name__
    shared = [other for other in shared_names(net)[name] if other != name]
    if shared:
        return f"shared with {shared[0]}"
    parts = path.split(".")
    for depth in range(len(parts)):
        above = net.get_submodule(".".join(parts[:depth]))
        if above is not owner and _passes_over(above):
            return f"{type(above).__name__} reads this weight itself"
    if leaf != "weight":
        return f"{leaf} of {kind} is not the weight of a linear layer"
    if not _computes_linear(owner) and conv_geometry(owner) is None:
        return f"{kind} has no sparse kernel"
    if (more := _has_more(owner)) is not None:
        return more
    if not net.get_parameter(name).is_floating_point():
        return f"weights of {net.get_parameter(name).dtype} have no sparse kernel"
    if set(owner._parameters) != {"weight", "bias"} or owner._buffers or owner._modules:
        return f"{kind} holds more than a weight and a bias"
    if hooked(owner):
        return f"{kind} carries hooks, which may read its weight"
    if path not in called:
        return f"{kind} was not called on the example"
    return None


def weight_matrix(net: nn.Module, name: str, x: Tensor) -> Tensor:
    """``x``, of the shape of the weight ``name``, as ``(out, in)``; of a convolution ``(out, rows · columns · in)``."""
    if conv_geometry(net.get_submodule(name.rpartition(".")[0])) is not None:
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)
    return layout_of(net, name).matrix(x)[0, :, :, 0]


def observe(net: nn.Module, example: object, paths: set[str]) -> dict[str, torch.Size]:
    """The shape of each named module's input on ``example``, the largest where it is called more than once.

    Raises:
        ValueError: the net cannot run on the example.
    """
    shapes: dict[str, torch.Size] = {}
    handles = []
    for path in paths:

        def note(_module: nn.Module, args: tuple, kwargs: dict, path: str = path) -> None:
            x = args[0] if args else next(iter(kwargs.values()), None)
            if isinstance(x, Tensor) and x.numel() >= shapes.get(path, torch.Size([0])).numel():
                shapes[path] = x.shape

        handles.append(net.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True))
    try:
        with without_fast_paths():  # else a layer is passed over
            run_example(net, example)
    finally:
        for handle in handles:
            handle.remove()
    return shapes
