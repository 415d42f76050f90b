"""The net as a graph of ATen operators, each with the module that calls it."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from bayesprune.sparse.checks import call, without_fast_paths

__all__ = ["Graph", "arguments", "named", "noted", "trace", "where", "within"]

_CAUSES = (
    ("data-dependent", "its control flow or a size depends on the data"),
    ("fake tensor in the exported program", "its forward takes derivatives, which torch.export cannot record"),
)
Calls = dict[str, tuple[tuple, dict]]
"""By a module's path, the arguments that it is called with."""
_TAKEN_APART = (torch.ops.aten.einsum.default,)  # into products and views


@dataclass(frozen=True)
class Graph:
    """The operators in the order in which they run, and which placeholder is which parameter or buffer.

    Args:
        nodes: the operators.
        names: placeholder -> the parameter's or buffer's name.
        constants: placeholder -> a tensor that is neither.
        given: how many of the outputs the net gives out; those after them are what its forward drops.
        dropped: the paths of modules whose results nothing that is given out needs.
    """

    nodes: tuple[fx.Node, ...]
    names: Mapping[str, str]
    constants: Mapping[str, Tensor]
    given: int
    dropped: tuple[str, ...] = ()


@dataclass
class _Count:
    """How many tensors a traced net gave out; torch.export sets back what it finds on modules."""

    given: int = 0


class _Traced(nn.Module):
    """Gives out the tensors in a net's results, and none of the caches and classes around them."""

    def __init__(self, net: nn.Module, count: "_Count", dropped: bool = False) -> None:
        super().__init__()
        self.net, self.count, self.dropped = net, count, dropped

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        noting = _Noting()
        with noting if self.dropped else nullcontext():
            result = tensors_of(self.net(*args, **kwargs))
        self.count.given = len(result)
        return (*result, *noting.found)


class _Noting(TorchFunctionMode):
    """Notes all floating-point results, so that what a forward drops stays in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not isinstance(result, nn.Parameter) and result.is_floating_point():
            self.found.append(result)
        return result


def tensors_of(value: Any, depth: int = 8) -> list[Tensor]:
    """The tensors in a net's results: in tuples, dicts and objects. A decoder's cache is passed over."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [x for one in value.values() for x in tensors_of(one, depth)]
    if isinstance(value, tuple | list):
        return [x for one in value for x in tensors_of(one, depth)]
    cache = any("Cache" in kind.__name__ for kind in type(value).__mro__)
    if isinstance(value, nn.Module | type) or cache or not depth:
        return []
    return [x for one in getattr(value, "__dict__", {}).values() for x in tensors_of(one, depth - 1)]


def arguments(node: fx.Node) -> dict[str, Any]:
    """An operator's arguments by the names of its schema, with the defaults of those that are not given."""
    told = node.target._schema.arguments  # type: ignore[union-attr]
    defaults = {one.name: one.default_value for one in told if one.has_default_value()}
    names = [one.name for one in told]
    return {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}


def within(node: fx.Node) -> list[str]:
    """The paths of the modules that are running when this operator is called, a later call of one as ``path@1``."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path.removeprefix("net").removeprefix(".") for path, _ in stack.values()]
    return paths[1:]  # without the one around the net


def where(node: fx.Node) -> str:
    """The path of the innermost module that calls this operator; empty for the net itself."""
    paths = within(node)
    return re.sub(r"@\d+", "", paths[-1]) if paths else ""


def trace(net: nn.Module, example: object, calls: Calls | None = None) -> Graph:
    """What ``torch.export`` records of ``net`` on ``example``, in-place operators turned into plain ones.

    Args:
        net: in eval mode.
        example: what it is called with.
        calls: what its modules are called with then, where that is known.

    Raises:
        ValueError: the net has no graph: its control flow follows the data, or it calls what torch cannot record.
    """
    count = _Count()
    called = _called(net, example) if calls is None else calls
    try:
        graph = _graph(_exported(_Traced(net, count), *_arguments_of(example)), count.given)
        dropped = _dropped(net, graph, called)
        if dropped:
            program = _exported(_Traced(net, count, dropped=True), *_arguments_of(example))
            graph = _graph(program, count.given, dropped)
    except Exception as error:
        raise ValueError(
            f"compact cannot follow {_first_without_graph(net, called)}: {_short(error)}; make smaller on its own "
            f"what lies before or behind it"
        ) from error
    if not graph.given:
        raise ValueError("compact finds no tensor in what the net returns, nor in its tuples, dicts and objects")
    for node in graph.nodes:
        for meta in tensors_of(node.meta.get("val")):
            if not all(type(side) is int for side in meta.shape):
                path = re.sub(r"@\d+", "", where(node))
                raise ValueError(
                    f"compact cannot follow {named(net, path)}: {node.target} gives a size that depends on the data; "
                    f"make smaller on its own what lies before or behind it"
                )
    return graph


def _arguments_of(example: object) -> tuple[tuple, dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), dict(example)
    return tuple(example) if isinstance(example, tuple | list) else (example,), {}


def _exported(net: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
    with warnings.catch_warnings(), torch.enable_grad(), without_fast_paths():
        warnings.simplefilter("ignore")
        taken_apart = {one: torch.export.default_decompositions()[one] for one in _TAKEN_APART}
        return torch.export.export(net, args, kwargs, strict=False).run_decompositions(taken_apart)


def _graph(program: Any, given: int, dropped: tuple[str, ...] = ()) -> Graph:
    signature = program.graph_signature
    lifted = signature.inputs_to_lifted_tensor_constants
    constants = {node: program.constants[name] for node, name in lifted.items()}
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names = {node: name.removeprefix("net.") for node, name in names.items()}
    return Graph(tuple(program.graph.nodes), names, constants, given, dropped)


def _dropped(net: nn.Module, graph: Graph, called: Mapping[str, object]) -> tuple[str, ...]:
    """The modules that are called and of whose parameters the graph knows nothing: nothing given out needs them."""
    used = {graph.names[node.name] for node in graph.nodes if node.name in graph.names and node.users}
    own = {path: {name for name, _ in net.get_submodule(path).named_parameters(path, recurse=False)} for path in called}
    return tuple(path for path, names in own.items() if names and not used & names)


def named(net: nn.Module, path: str) -> str:
    """A module's path and class, for messages."""
    kind = type(net.get_submodule(path)).__name__
    return f"{path!r} ({kind})" if path else f"the net ({kind})"


def _short(error: Exception) -> str:
    """What torch.export says, in the words of who wrote the net where these are known."""
    said = str(error)
    told = next((told for words, told in _CAUSES if words in said), None)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return told or (lines[0][:300] if lines else type(error).__name__)


def _called(net: nn.Module, example: object) -> Calls:
    with torch.no_grad(), noted(net) as calls:
        call(net, example)
    return calls


@contextmanager
def noted(net: nn.Module) -> Iterator[Calls]:
    """Within: by path, what each module of ``net`` is called with first. torch's encoders take no fast path then."""
    calls: Calls = {}
    handles = []
    for path, module in net.named_modules():

        def note(_module: nn.Module, args: tuple, kwargs: dict, path: str = path) -> None:
            calls.setdefault(path, (args, kwargs))

        handles.append(module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        with without_fast_paths():
            yield calls
    finally:
        for handle in handles:
            handle.remove()


def _first_without_graph(net: nn.Module, calls: Calls) -> str:
    """The innermost module that cannot be exported on what it is called with, in words."""
    path = ""
    while True:
        children = [f"{path}.{name}" if path else name for name, _ in net.get_submodule(path).named_children()]
        while lists := [child for child in children if child not in calls]:
            children = [child for child in children if child in calls]
            children += [f"{one}.{name}" for one in lists for name, _ in net.get_submodule(one).named_children()]
        failing = next((child for child in children if not _exports(net.get_submodule(child), *calls[child])), None)
        if failing is None:
            return named(net, path)
        path = failing


def _exports(module: nn.Module, args: tuple, kwargs: dict) -> bool:
    try:
        _exported(_Traced(module, _Count()), args, kwargs)
    except Exception:  # whatever a forward does
        return False
    return True
