"""The net as a graph of ATen operators, each with the module that calls it."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from bayesprune.sparse.checks import call, without_fast_paths

__all__ = ["Graph", "blame", "trace", "where"]

_TAKEN_APART = (torch.ops.aten.einsum.default,)  # into products and views


@dataclass(frozen=True)
class Graph:
    """The operators in the order in which they run, and which placeholder is which parameter or buffer."""

    nodes: tuple[fx.Node, ...]
    names: Mapping[str, str]  # placeholder -> the parameter's or buffer's name
    constants: Mapping[str, Tensor]  # placeholder -> a tensor that is neither


def where(node: fx.Node) -> str:
    """The path of the innermost module that calls this operator; empty for the net itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return re.sub(r"@\d+", "", paths[-1]) if paths else ""  # a second call of a module is told apart


def blame(net: nn.Module, example: object) -> str | None:
    """The innermost module that raises on the example, in words; None where nothing does."""
    entered: list[str] = []
    handles = []
    for path, module in net.named_modules():

        def enter(_module: nn.Module, _args: object, path: str = path) -> None:
            entered.append(path)

        def leave(_module: nn.Module, _args: object, _result: object) -> None:
            entered.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with torch.no_grad():
            call(net, example)
    except Exception as error:
        path = entered[-1] if entered else ""
        return f"{called(net, path)}: {error}"
    finally:
        for handle in handles:
            handle.remove()
    return None


def called(net: nn.Module, path: str) -> str:
    """A module's path and class, for messages."""
    kind = type(net.get_submodule(path)).__name__
    return f"{path!r} ({kind})" if path else f"the net ({kind})"


def trace(net: nn.Module, example: object) -> Graph:
    """What ``torch.export`` records of ``net`` on ``example``, in-place operators turned into plain ones.

    Raises:
        ValueError: the net has no graph: its control flow follows the data, or it calls what torch cannot record.
    """
    args: tuple = ()
    kwargs: dict[str, object] = {}
    if isinstance(example, Mapping):
        kwargs = dict(example)
    else:
        args = tuple(example) if isinstance(example, tuple | list) else (example,)
    try:
        with warnings.catch_warnings(), torch.enable_grad(), without_fast_paths():
            warnings.simplefilter("ignore")
            taken_apart = {one: torch.export.default_decompositions()[one] for one in _TAKEN_APART}
            program = torch.export.export(net, args, kwargs, strict=False).run_decompositions(taken_apart)
    except Exception as error:
        raise ValueError(f"compact cannot follow {_first_without_graph(net, example)}: {_short(error)}") from error
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted = signature.inputs_to_lifted_tensor_constants
    constants = {node: program.constants[name] for node, name in lifted.items()}
    return Graph(tuple(program.graph.nodes), names, constants)


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _first_without_graph(net: nn.Module, example: object) -> str:
    """The innermost module that cannot be exported on what it is called with, in words."""
    calls: dict[str, tuple[tuple, dict]] = {}
    handles = []
    for path, module in net.named_modules():

        def note(_module: nn.Module, args: tuple, kwargs: dict, path: str = path) -> None:
            calls.setdefault(path, (args, kwargs))

        handles.append(module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        with torch.no_grad():
            call(net, example)
    finally:
        for handle in handles:
            handle.remove()
    path = ""
    while True:
        children = [f"{path}.{name}" if path else name for name, _ in net.get_submodule(path).named_children()]
        while lists := [child for child in children if child not in calls]:
            children = [child for child in children if child in calls]
            children += [f"{one}.{name}" for one in lists for name, _ in net.get_submodule(one).named_children()]
        failing = next((child for child in children if not _exports(net.get_submodule(child), *calls[child])), None)
        if failing is None:
            return called(net, path)
        path = failing


def _exports(module: nn.Module, args: tuple, kwargs: dict) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.export(module, args, kwargs, strict=False)
    except Exception:  # whatever a forward does
        return False
    return True
