"""The lines that load a saved net again, as they are true for this net."""

import inspect
import sys

from torch import nn

from bayesprune.sparse.saving.description import named_tensors, net_as_json

__all__ = ["load_lines"]

_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def load_lines(net: nn.Module, path: str, made_by: str | None = None) -> str:
    """What to type to load ``net``, packed and saved to ``path``.

    A net of torch.nn's own modules loads by its file alone; another has its class imported from where it is defined.

    Args:
        net: the dense net.
        path: the saved file.
        made_by: what gives the net, as ``my_module:make(3)``, where that is known.

    >>> print(load_lines(nn.Sequential(nn.Linear(3, 2)), "model.safetensors"))
    net = bp.load("model.safetensors")  # needs neither Pyro nor pickle
    """
    _, asks = net_as_json(net, len(list(named_tensors(net))))
    if not asks:
        return f'net = bp.load("{path}")  # needs neither Pyro nor pickle'
    source, call = _maker(net, made_by)
    return f'{source}\n\nnet = bp.load("{path}", net={call})  # a file holds no code: the class is yours'


def _maker(net: nn.Module, made_by: str | None) -> tuple[str, str]:
    """The line that imports what makes such a net, and its call."""
    if made_by and ":" in made_by:
        module, _, call = made_by.partition(":")
        name = call.partition("(")[0].strip()
        found = getattr(sys.modules.get(module), name, None)
        return f"from {module} import {name}", call if "(" in call or isinstance(found, nn.Module) else f"{call}()"
    kind = type(net)
    try:
        parameters = inspect.signature(kind).parameters.values()
        needed = [p.name for p in parameters if p.default is p.empty and p.kind not in _ANY]
        call = f"{kind.__name__}({', '.join(f'{name}=…' for name in needed)})"
    except (TypeError, ValueError):  # it has no signature
        call = f"{kind.__name__}(…)"
    outer, _, nested = kind.__qualname__.rpartition(".")
    if kind.__module__ == "__main__" or "<locals>" in outer:
        return f"# {kind.__name__}: the class that you made the net of", call
    if outer:
        return f"from {kind.__module__} import {outer.partition('.')[0]}", f"{outer}.{call}"
    return f"from {kind.__module__} import {nested}", call
