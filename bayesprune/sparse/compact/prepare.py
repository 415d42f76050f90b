"""Preparation for compaction: attention opened into linear layers, and modules that stay untouched."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map_only

from bayesprune._copies import copied
from bayesprune._names import matching
from bayesprune.sparse.checks import shared_names
from bayesprune.sparse.layers.attention import SparseAttention
from bayesprune.sparse.layers.composite import hooked
from bayesprune.sparse.surgery.composites import Call, calls_on
from bayesprune.sparse.surgery.surgery import Surgery

__all__ = ["Prepared", "prefix_of", "prepare"]

_ASK: Mapping[type[nn.Module], tuple[str, int]] = MappingProxyType(
    {nn.TransformerEncoder: ("is_causal", 3), nn.TransformerDecoder: ("tgt_is_causal", 6)}
)


@dataclass(frozen=True)
class Prepared:
    """The net to analyse.

    Args:
        net: a copy with ``nn.MultiheadAttention`` opened.
        masks: by the names there.
        opened: the paths of what was opened, and whether each is split.
        closed: the paths of what stays as it is, and why.
        watched: the paths of modules whose inputs and results hooks see.
    """

    net: nn.Module
    masks: Mapping[str, Tensor]
    opened: Mapping[str, bool]
    closed: Mapping[str, str]
    watched: Sequence[str] = ()


def prepare(net: nn.Module, masks: Mapping[str, Tensor], example: object, skip: Sequence[str]) -> Prepared:
    """Open what can be; find what stays closed. ``net`` is left as it is.

    Raises:
        ValueError: a glob of ``skip`` names no module, or the net cannot run on the example.
    """
    paths = [path for path, _ in net.named_modules()]
    if not isinstance(skip, Sequence) or not all(isinstance(glob, str) for glob in skip):
        raise ValueError(f"skip must be globs over module paths, got {skip!r}")
    skipped: set[str] = set()
    for glob in skip:
        skipped |= set(found := matching(glob, paths))
        if not found:
            raise ValueError(f"skip names {glob!r}, which no module of the net matches; there are {_some(paths)}")
    attentions = [path for path, m in net.named_modules() if isinstance(m, nn.MultiheadAttention)]
    calls = calls_on(net, example, [f"{prefix_of(path)}out_proj.weight" for path in attentions])
    closed = {path: why for path, module in net.named_modules() if (why := _why_closed(path, module, skipped))}
    shared = {name for name, names in shared_names(net).items() if len(names) > 1}
    opened: dict[str, bool] = {}
    opening = copied(net)
    for path in attentions:
        why = _why_shut(net.get_submodule(path), path, shared, calls)
        if why is not None:
            closed.setdefault(path, why)
        if path not in closed:
            opened[path] = calls[path].split
    opening = Surgery(composites=opened).apply(opening)
    watched = [path for path, module in opening.named_modules() if hooked(module) and path not in closed]
    for path in watched:
        module = opening.get_submodule(path)
        module.forward = _copied_out(module.forward)  # type: ignore[method-assign]
    for module in opening.modules():
        if type(module) in _ASK:
            module.register_forward_pre_hook(_not_causal, with_kwargs=True)
    renamed: dict[str, Tensor] = {}
    for name, mask in masks.items():
        path = next((path for path in opened if name.startswith(prefix_of(path))), None)
        if path is None:
            renamed[name] = mask
            continue
        prefix, module = prefix_of(path), opening.get_submodule(path)
        assert isinstance(module, SparseAttention)
        parts = module.parts(name.removeprefix(prefix))
        rows = [module.get_parameter(part).shape[0] for part in parts]
        renamed |= {prefix + part: rows_of for part, rows_of in zip(parts, mask.split(rows), strict=True)}
    return Prepared(opening, renamed, opened, closed, watched)


def _copied_out(forward: Callable[..., object]) -> Callable[..., object]:
    """``forward`` with its tensors copied, so that the graph shows what it gives out."""

    def copies(*args: object, **kwargs: object) -> object:
        return tree_map_only(Tensor, torch.clone, forward(*args, **kwargs))

    return copies


def _not_causal(module: nn.Module, args: tuple, kwargs: dict[str, object]) -> tuple[tuple, dict[str, object]]:
    """Spare the encoder a look at its mask, which no graph can hold: causal or not, the mask says all."""
    name, place = _ASK[type(module)]
    if len(args) <= place and kwargs.get(name) is None:
        kwargs = {**kwargs, name: False}
    return args, kwargs


def _why_closed(path: str, module: nn.Module, skip: Collection[str]) -> str | None:
    if path in skip:
        return f"skip names {path}"
    if "forward" in vars(module) or (hooked(module) and isinstance(module, nn.MultiheadAttention)):
        return f"{path or 'the net'} carries hooks, which may count on its sizes"
    if parametrize.is_parametrized(module):
        return f"{path or 'the net'} has parametrizations, which compute its weights"
    return None


def _why_shut(module: nn.Module, path: str, shared: set[str], calls: Mapping[str, Call]) -> str | None:
    """Why an attention cannot be opened."""
    if type(module) is not nn.MultiheadAttention:
        return f"{path} is a subclass of nn.MultiheadAttention"
    if path not in calls:
        return f"{path} was not called on the example"
    own = (prefix_of(path) + name for name, _ in module.named_parameters())
    tied = next((name for name in own if name in shared), None)
    return SparseAttention.refusal(module) if tied is None else f"{tied} is shared"


def prefix_of(path: str) -> str:
    """What the names of a module's parameters begin with."""
    return f"{path}." if path else ""


def _some(paths: Sequence[str]) -> str:
    named = [repr(path) for path in paths if path]
    return ", ".join(named[:8]) + (f", … ({len(named)} in all)" if len(named) > 8 else "")
