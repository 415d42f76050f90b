"""Producer and consumer modules, read off torch.fx's trace of a net."""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from threading import get_ident
from typing import Any

from torch import fx, nn

from bayesprune.sparse.layers.composite import Composite, hooked
from bayesprune.sparse.surgery.composites import shell

__all__ = ["followers"]

_LISTS = (nn.ModuleList, nn.ModuleDict)  # without a forward of their own


class _Tracer(fx.Tracer):
    """Looks into modules of users' own and ``nn.Sequential``, but for those that were tried and have no graph."""

    def __init__(self, tried: Mapping[nn.Module, fx.Graph | str], leaves: Collection[nn.Module]) -> None:
        super().__init__()
        self.tried, self.leaves, self.thread = tried, leaves, get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        closed = isinstance(m, Composite) or m in self.leaves or hooked(m) or isinstance(self.tried.get(m), str)
        return closed or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if get_ident() != self.thread:  # fx patches nn.Module for all threads
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def _graphs(net: nn.Module, leaves: Collection[nn.Module]) -> tuple[dict[str, fx.Graph], dict[str, str]]:
    """The graph of the net; where it cannot be traced, those of the largest modules within that can, by path.

    And by path, what the tracing of the others ended with.
    """
    tried: dict[nn.Module, fx.Graph | str] = {}
    modules = dict(net.named_modules())
    for module in reversed(modules.values()):  # children come first
        tracer = _Tracer(tried, leaves)
        if module is not net and not hooked(module) and tracer.is_leaf_module(module, ""):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tried[module] = tracer.trace(module)
        except Exception as error:  # whatever a forward of the user's does with what is no tensor
            tried[module] = f"{type(error).__name__}: {error}"
    graphs, untraced = {}, {}
    for path, module in modules.items():
        above = path.rpartition(".")[0]
        while above and isinstance(modules[above], _LISTS):
            above = above.rpartition(".")[0]
        graph = tried.get(module)
        if isinstance(graph, str):
            untraced[path] = graph
        elif graph is not None and (module is net or hooked(module) or isinstance(tried.get(modules[above]), str)):
            graphs[path] = graph
    return graphs, untraced


def followers(net: nn.Module, leaves: Collection[str] = ()) -> tuple[dict[str, str], dict[str, str]]:
    """Of modules that are called once and whose result goes to one other module alone, called once: that one's path.

    Args:
        net: traced, and left as it is.
        leaves: paths of modules that are not looked into; those of ``torch.nn`` are none that are.

    Returns:
        The pairs; and by path the modules that cannot be traced, and what that ended with.

    >>> followers(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)))
    ({'0': '1', '1': '2'}, {})
    """
    pairs: dict[str, str] = {}
    copied = shell(net)
    graphs, untraced = _graphs(copied, {copied.get_submodule(path) for path in leaves})
    for path, graph in graphs.items():
        prefix = f"{path}." if path else ""
        used = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        used.update(str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr")
        for node in graph.nodes:
            if node.op != "call_module" or len(node.users) != 1:
                continue
            (taker,) = node.users
            alone = taker.op == "call_module" and taker.args == (node,) and not taker.kwargs
            if alone and used[str(node.target)] == used[str(taker.target)] == 1:
                pairs[f"{prefix}{node.target}"] = f"{prefix}{taker.target}"
    return pairs, untraced
