"""Fusion of batch normalisation and activations into the packed layer before them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesprune.sparse.activations import activation_of
from bayesprune.sparse.checks import call
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.layers.composite import hooked
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.surgery.eligibility import observe
from bayesprune.sparse.surgery.fold import BatchNorm, fold, folds
from bayesprune.sparse.surgery.followers import followers
from bayesprune.sparse.surgery.replace import put

__all__ = ["fuse", "identities_in", "replace_by_identity"]


@dataclass(frozen=True)
class _Follow:
    """What a packed layer can take in: a batch normalisation, an activation or both, and where they stand."""

    layer: SparseLinear
    norm: BatchNorm | None
    activation: str
    paths: tuple[str, ...]


def _close(a: object, b: object) -> bool:
    """Whether two outputs differ by no more than roundings: relative to the largest number."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or not a.is_floating_point():
            return a.shape == b.shape and bool((a == b).all())
        largest = float(a.abs().nan_to_num(posinf=0.0).max()) if a.numel() else 0.0
        within = max(1e-3, 16 * torch.finfo(a.dtype).eps) * largest
        return bool(torch.allclose(a, b, rtol=0.0, atol=within, equal_nan=True))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_close(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(_close(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b)


def _follows(net: nn.Module, example: object) -> list[_Follow]:
    times = Counter(id(m) for _, m in net.named_modules(remove_duplicate=False))
    packed = {path: m for path, m in net.named_modules() if isinstance(m, SparseLinear) and path}
    pairs = followers(net) if packed else {}
    matrices = {path for path in pairs.values() if type(net.get_submodule(path)) is nn.BatchNorm1d}
    shapes = observe(net, example, matrices) if matrices else {}

    def taker(path: str) -> tuple[str, nn.Module]:
        """What alone takes the result of ``path``, past each ``nn.Identity``, and its path; else the net itself."""
        path = pairs.get(path, "")
        while path and type(net.get_submodule(path)) is nn.Identity:
            path = pairs.get(path, "")
        after = net.get_submodule(path)
        return (path, after) if times[id(after)] == 1 and not hooked(after) else ("", net)

    found = []
    for path, layer in packed.items():
        if hooked(layer) or layer.activation or times[id(layer)] > 1:
            continue
        at, after = taker(path)
        norm, activation, paths = None, "", []
        by_output = isinstance(layer, SparseConv2d) or len(shapes.get(at, ())) == 2
        if isinstance(after, BatchNorm) and by_output and folds(layer, after):
            norm, paths = after, [at]
            at, after = taker(at)
        found_activation = activation_of(after)
        if found_activation is not None and KERNELS[layer.kernel].fuses:
            activation, paths = found_activation.name, [*paths, at]
        if paths:
            found.append(_Follow(layer, norm, activation, tuple(paths)))
    return found


def fuse(net: nn.Module, example: object) -> list[str]:
    """Work what follows each packed layer out in it, in place: batch normalisation, and then an activation.

    Where the layer's result goes nowhere else, as the net's trace tells; an ``nn.Identity`` takes each one's place. A
    net that does what no trace sees would compute something else then: outputs on ``example`` are compared, and where
    they differ all stays as it was.

    Returns:
        The paths where an ``nn.Identity`` stands now.
    """
    found = _follows(net, example)
    if not found:
        return []
    before = [(dict(f.layer._parameters), dict(f.layer._buffers)) for f in found]
    gone = {path: net.get_submodule(path) for f in found for path in f.paths}
    with torch.no_grad():
        expected = call(net, example)
        for f in found:
            if f.norm is not None:
                fold(f.layer, f.norm)
            f.layer.activation = f.activation
        for path in gone:
            replace_by_identity(net, path)
        if _close(expected, call(net, example)):
            return list(gone)
    for f, (parameters, buffers) in zip(found, before, strict=True):
        f.layer.activation = ""
        f.layer._parameters.update(parameters)
        f.layer._buffers.update(buffers)
    for path, module in gone.items():
        put(net, path, module)
    return []


def identities_in(net: nn.Module) -> list[str]:
    """The paths of each ``nn.Identity``: what stood there may have been taken in by a packed layer."""
    return [path for path, module in net.named_modules() if path and type(module) is nn.Identity]


def replace_by_identity(net: nn.Module, path: str) -> None:
    """Put an ``nn.Identity`` where a batch normalisation or an activation stands that a packed layer has taken in.

    Raises:
        ValueError: something else stands there.
    """
    try:
        module = net.get_submodule(path)
    except AttributeError:
        raise ValueError(f"there is no module {path!r}") from None
    if activation_of(module) is None and type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.Identity):
        raise ValueError(f"{path!r} is {type(module).__name__}, which no packed layer takes in")
    put(net, path, nn.Identity().train(module.training))
