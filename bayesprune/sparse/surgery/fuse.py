"""Fusion of batch normalisation and activations into the packed layer before them."""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from bayesprune.sparse.activations import activation_of
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.layers.composite import hooked
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.surgery.composites import above, shell
from bayesprune.sparse.surgery.eligibility import observe
from bayesprune.sparse.surgery.fold import BatchNorm, cannot_fold, fold
from bayesprune.sparse.surgery.followers import followers
from bayesprune.sparse.surgery.reference import Reference
from bayesprune.sparse.surgery.replace import put

__all__ = ["Following", "followings", "fuse", "identities_in", "replace_by_identity"]


@dataclass(frozen=True)
class Following:
    """What follows a packed layer and is worked out in it.

    Args:
        norm: the path of a batch normalisation, or empty.
        activation: the name that kernels know an activation by, or empty.
        paths: where these stand.
        why_not: why no more of what follows is.
    """

    norm: str = ""
    activation: str = ""
    paths: tuple[str, ...] = ()
    why_not: str = ""


def followings(net: nn.Module, layers: Mapping[str, str], example: object) -> dict[str, Following]:
    """What of that which follows each of the linear layers and convolutions ``layers`` can be worked out in it.

    Args:
        net: in eval mode; it is left as it is.
        layers: by path the kernel that each will run by, or runs by.
        example: an input batch, or a tuple or dict of arguments.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    >>> followings(net, {"0": "native", "2": "native"}, torch.ones(1, 2))["0"]
    Following(norm='', activation='relu', paths=('1',), why_not='')
    """
    times = Counter(id(m) for _, m in net.named_modules(remove_duplicate=False))
    layers = {path: kernel for path, kernel in layers.items() if path}
    pairs, untraced = followers(net, layers) if layers else ({}, {})
    matrices = {path for path in pairs.values() if type(net.get_submodule(path)) is nn.BatchNorm1d}
    shapes = observe(net, example, matrices) if matrices else {}

    def taker(path: str) -> str:
        """What alone takes the result of ``path``, past each ``nn.Identity``; empty where nothing does."""
        path = pairs.get(path, "")
        while path and type(net.get_submodule(path)) is nn.Identity:
            path = pairs.get(path, "")
        return path

    def why_closed(path: str, at: str) -> str | None:
        after = net.get_submodule(at)
        if not at:
            where = next((p for p in reversed(above(path)) if p in untraced), None)
            told = "" if where is None else f"; {where or 'the net'} cannot be traced ({untraced[where]})"
            return f"no module alone takes its result{told}"
        named = f"{type(after).__name__} {at!r}"
        if times[id(after)] > 1:
            return f"{named} stands in several places"
        return f"{named} carries hooks" if hooked(after) else None

    found = {}
    for path, kernel in layers.items():
        layer, norm, activation, paths = net.get_submodule(path), "", "", list[str]()
        if hooked(layer) or times[id(layer)] > 1 or (isinstance(layer, SparseLinear) and layer.activation):
            found[path] = Following(why_not="it stands in several places, carries hooks or has an activation already")
            continue
        at = taker(path)
        why = why_closed(path, at)
        after = net.get_submodule(at)
        if why is None and isinstance(after, BatchNorm):
            refused = cannot_fold(layer, after)
            if refused is None and type(after) is nn.BatchNorm1d and len(shapes.get(at, ())) != 2:
                refused = "takes more than rows"
            if refused is None:
                norm, paths = at, [at]
                at = taker(at)
                why, after = why_closed(path, at), net.get_submodule(at)
            else:
                why = f"{type(after).__name__} {at!r} {refused}"
        if why is None:
            named, taken = f"{type(after).__name__} {at!r}", activation_of(after)
            if taken is None:
                why = f"{named} is no activation that a kernel works out"
            elif not KERNELS[kernel].fuses:
                why = f"the kernel {kernel!r} works out no activation"
            else:
                activation = taken.name
                paths.append(at)
        found[path] = Following(norm, activation, tuple(paths), why or "")
    return found


def fuse(net: nn.Module, example: object, reference: Reference | None = None, *, unchecked: bool = False) -> list[str]:
    """Work what follows each packed layer out in it, in place: batch normalisation, and then an activation.

    Where the layer's result goes nowhere else, as the net's trace tells; an ``nn.Identity`` takes each one's place. A
    net that does what no trace sees would compute something else then: results are compared, and where they differ each
    layer is tried alone, and what changes the results stays as it was, with a warning.

    Args:
        net: in eval mode, with packed layers.
        example: an input batch, or a tuple or dict of arguments.
        reference: what the net is to compute; by default what it computes now.
        unchecked: compare nothing, for a caller that does.

    Returns:
        The paths where an ``nn.Identity`` stands now.
    """
    layers = {path: m for path, m in net.named_modules() if isinstance(m, SparseLinear)}
    all_of_them = followings(net, {path: layer.kernel for path, layer in layers.items()}, example)
    found = {path: following for path, following in all_of_them.items() if following.paths}
    if not found:
        return []
    if unchecked:
        _work_in(net, found)
        return [at for following in found.values() for at in following.paths]
    reference = Reference.of(shell(net), example) if reference is None else reference
    if _try(net, found, reference) is None:
        return [at for following in found.values() for at in following.paths]
    gone: list[str] = []
    for path, following in found.items():
        why = _try(net, {path: following}, reference)
        if why is None:
            gone += following.paths
        else:
            stays = " and ".join(f"{type(net.get_submodule(at)).__name__} {at!r}" for at in following.paths)
            warnings.warn(f"{stays} cannot be worked out in {path!r} before it and stays: {why}", stacklevel=3)
    return gone


def _try(net: nn.Module, found: Mapping[str, Following], reference: Reference) -> str | None:
    """Work ``found`` out in place; where results are others then, put all back and say why."""
    put_back = _work_in(net, found)
    why = reference.why_not(net)
    if why is not None:
        put_back()
    return why


def _work_in(net: nn.Module, found: Mapping[str, Following]) -> Callable[[], None]:
    """Work ``found`` out in place; returns what puts all back."""
    before: list[tuple[SparseLinear, dict[str, nn.Parameter | None], dict[str, Tensor | None], Tensor | None]] = []
    gone = {at: net.get_submodule(at) for following in found.values() for at in following.paths}
    for path, following in found.items():
        layer = net.get_submodule(path)
        assert isinstance(layer, SparseLinear)
        before.append((layer, dict(layer._parameters), dict(layer._buffers), layer.output_scale))
        if following.norm:
            norm = gone[following.norm]
            assert isinstance(norm, BatchNorm)
            fold(layer, norm)
        layer.activation = following.activation
    for at in gone:
        replace_by_identity(net, at)

    def put_back() -> None:
        for layer, parameters, buffers, scale in before:
            layer.activation, layer.output_scale = "", scale
            layer._parameters.update(parameters)
            layer._buffers.update(buffers)
        for at, module in gone.items():
            put(net, at, module)

    return put_back


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
