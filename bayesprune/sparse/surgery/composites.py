"""Replace composite modules (attention, RNNs, transformer layers) as a unit, so that their weights can run packed."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from torch import Tensor, nn

from bayesprune._copies import copied
from bayesprune.sparse.checks import run_example, shared_names, without_fast_paths
from bayesprune.sparse.layers.attention import SparseAttention
from bayesprune.sparse.layers.composite import Composite
from bayesprune.sparse.layers.recurrent import SparseRNN
from bayesprune.sparse.surgery.replace import put

__all__ = [
    "Call",
    "above",
    "calls_on",
    "composite_of",
    "composites_for",
    "composites_in",
    "open_composite",
    "refusals",
    "shell",
]

_OPENED: Mapping[type[nn.Module], type[Composite]] = MappingProxyType(
    {nn.MultiheadAttention: SparseAttention, nn.RNN: SparseRNN, nn.GRU: SparseRNN, nn.LSTM: SparseRNN}
)
_BYPASSES = (nn.TransformerEncoder, nn.TransformerEncoderLayer)  # in eval a fused kernel gets the weights of layers


@dataclass(frozen=True)
class Call:
    """The arguments of the largest call of a module on the example, and whether it is quicker split."""

    args: tuple
    kwargs: Mapping[str, object]
    split: bool

    @property
    def given(self) -> tuple[object, ...]:
        """All that the module was called with, tuples taken apart."""
        return tuple(_flat((*self.args, *self.kwargs.values())))

    @property
    def size(self) -> int:
        """The entries of the tensors among it."""
        return sum(x.numel() for x in self.given if isinstance(x, Tensor))


def _flat(values: Iterable[object]) -> Iterator[object]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _flat(value)
        else:
            yield value


def above(name: str) -> list[str]:
    """The paths of the modules that hold the parameter or module ``name``, outermost first."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(len(parts))]


def _is_whole(module: nn.Module) -> bool:
    return type(module) in _OPENED or isinstance(module, _BYPASSES)


def _holder(net: nn.Module, name: str) -> str | None:
    """The path of the module to open for the matrix ``name``, were nothing in the way."""
    if net.get_parameter(name).dim() != 2:
        return None
    return next((path for path in above(name) if type(net.get_submodule(path)) in _OPENED), None)


def refusals(net: nn.Module, names: Iterable[str], calls: Mapping[str, Call]) -> dict[str, str]:
    """Of the weights ``names`` that a module reads itself: those whose module cannot be opened, and why not."""
    holders = {name: path for name in names if (path := _holder(net, name)) is not None}
    shared, why = shared_names(net), dict[str, str]()
    for path in set(holders.values()):
        module = net.get_submodule(path)
        within = (f"{path}.{own}" if path else own for own, _ in module.named_parameters())
        twice = next((own for own in within if len(shared[own]) > 1), None)
        kind = type(module).__name__
        refused = f"{kind} shares {' and '.join(shared[twice])}" if twice else _OPENED[type(module)].refusal(module)
        if refused or path not in calls:
            why[path] = refused or f"{kind} was not called on the example"
    return {name: why[path] for name, path in holders.items() if path in why}


def calls_on(net: nn.Module, example: object, names: Iterable[str]) -> dict[str, Call]:
    """How the modules that are converted as wholes, for the weights ``names``, are called on the example.

    Raises:
        ValueError: the net cannot run on the example.
    """
    calls: dict[str, Call] = {}
    paths = {path for name in names for path in above(name) if _is_whole(net.get_submodule(path))}
    if not paths:
        return calls
    handles = []
    for path in paths:

        def note(module: nn.Module, args: tuple, kwargs: dict, path: str = path) -> None:
            kind, before = _OPENED.get(type(module)), calls.get(path)
            split = (before is not None and before.split) or (kind is not None and kind.splits(args, kwargs))
            call = Call(args, kwargs, split)
            calls[path] = call if before is None or call.size > before.size else replace(before, split=split)

        handles.append(net.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True))
    try:
        with without_fast_paths():  # else a layer is passed over, or gets a nested tensor
            run_example(net, example)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def shell(net: nn.Module) -> nn.Module:
    """A copy of the modules of ``net`` over the same tensors."""
    return copied(net, {x: x for x in (*net.parameters(), *net.buffers())})


def open_composite(net: nn.Module, path: str, split: bool) -> nn.Module:
    """Open the module ``path`` in place; returns the net, which is the opened module where ``path`` is empty.

    Raises:
        ValueError: it is none of those that can be opened.
    """
    module = net.get_submodule(path)
    kind = _OPENED.get(type(module))
    if kind is None:
        raise ValueError(f"{path or 'the net'} is {type(module).__name__}, which does not read its own weights")
    return put(net, path, kind(module, split))


def composites_in(net: nn.Module) -> dict[str, bool]:
    """The paths of the opened modules of ``net``, and whether each is split."""
    return {path: module.split for path, module in net.named_modules() if isinstance(module, Composite)}


def composites_for(net: nn.Module, names: Iterable[str], calls: Mapping[str, Call]) -> dict[str, bool]:
    """The paths of the modules to open for the weights ``names``, which they read themselves, and whether to split."""
    paths = (_holder(net, name) for name in names)
    return {path: path in calls and calls[path].split for path in dict.fromkeys(paths) if path is not None}


def composite_of(net: nn.Module, name: str, calls: Mapping[str, Call]) -> str | None:
    """The path of what is timed as a whole for the weight ``name``: the outermost module that would pass over layers.

    A stack of encoder layers is one where it would cut the padding out of its input, and else each of its layers.
    """
    for path in above(name):
        module, call = net.get_submodule(path), calls.get(path)
        if call is None:
            continue
        if isinstance(module, nn.TransformerEncoder):
            padding = call.kwargs.get("src_key_padding_mask", (*call.args, None, None, None)[2])
            if module.use_nested_tensor and padding is not None:
                return path
        else:
            return path
    return None
