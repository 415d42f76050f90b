"""Which layers' outputs are a net's own: a channel of theirs that is pruned is a class or target that is gone."""

import copy
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, Node, Tracer
from torch.nn.utils import parametrize

from bayesprune.layout import layout_of
from bayesprune.patterns import Channel, Pattern

__all__ = ["Outputs", "output_layers", "prunes_outputs"]

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear)
_MIXING: tuple[Callable[..., Any], ...] = (
    torch.matmul, torch.mm, torch.bmm, torch.einsum, torch.addmm, torch.baddbmm, operator.matmul,
    F.linear, F.bilinear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
    F.embedding, F.scaled_dot_product_attention,
)  # fmt: skip


@dataclass(frozen=True)
class Outputs:
    """The weights of the layers whose outputs are the net's.

    Attributes:
        names: of the weights, as in ``net.named_parameters()``.
        traced: whether they were read off the net's forward; else it is the last layer, which can be another.
    """

    names: frozenset[str]
    traced: bool


def prunes_outputs(pattern: Pattern, net: nn.Module, name: str) -> bool:
    """Whether a group of ``pattern`` is an output of the layer that owns the weight, with all its inputs."""
    layout = layout_of(net, name)
    rank = len(layout.shape)
    return isinstance(pattern, Channel) and rank > 1 and pattern.axis % rank == int(layout.transposed)


def output_layers(net: nn.Module) -> Outputs:
    """The layers whose outputs are the net's own, past activations, norms, pooling, sums and changes of shape.

    The forward is traced on a copy without numbers; where it cannot be, it is the last layer in the net's order.

    >>> output_layers(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(-1)))
    Outputs(names=frozenset({'2.weight'}), traced=True)
    """
    try:
        graph = _Leaves().trace(_hollow(net))
    except Exception:  # whatever a forward raises on what is no tensor
        return Outputs(frozenset(_weights(net)[-1:]), traced=False)
    return Outputs(frozenset(_written(net, graph)) & set(_weights(net)), traced=True)


class _Leaves(Tracer):
    """Looks into no module that has a weight or is torch's own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_layer(m) or super().is_leaf_module(m, module_qualified_name)


def _hollow(net: nn.Module) -> nn.Module:
    """A copy of the net whose tensors have shapes and no numbers: its forward may change it as it likes."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in net.parameters()}
    memo.update({id(b): b.detach().to("meta") for b in net.buffers()})
    return copy.deepcopy(net, memo)


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, _LAYERS) or (type(module).__name__ == "Conv1D" and hasattr(module, "nf"))


def _weights(net: nn.Module) -> list[str]:
    """The weights of linear layers and convolutions, in the net's order, tied ones by their first name."""
    names = {id(p): name for name, p in net.named_parameters()}
    owned = [_weight(module) for module in net.modules() if _is_layer(module)]
    return [names[id(weight)] for weight in owned if id(weight) in names]


def _weight(module: nn.Module) -> Tensor | None:
    """The parameter that is, or is made into, a module's weight: ``module.weight`` might write to the net."""
    if parametrize.is_parametrized(module, "weight"):
        return next(module.get_submodule("parametrizations.weight").parameters(recurse=False), None)
    return module._parameters.get("weight")


def _written(net: nn.Module, graph: Graph) -> Iterable[str]:
    """The names of the weights that write the graph's outputs."""
    first = {id(p): name for name, p in net.named_parameters()}
    waiting = [node for node in graph.nodes if node.op == "output"]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "call_module":
            module = net.get_submodule(str(node.target))
            module = module.out_proj if isinstance(module, nn.MultiheadAttention) else module
            if _is_layer(module):
                yield first.get(id(_weight(module)), "")
            if any(p.dim() > 1 for p in module.parameters()):
                continue
        elif node.op == "call_function" and node.target in _MIXING:
            for source in node.all_input_nodes[1:2]:  # of F.linear(x, weight)
                if source.op == "get_attr":
                    yield str(source.target)
            continue
        elif node.op == "call_method" and node.target in ("matmul", "mm", "bmm", "__matmul__"):
            continue
        waiting += node.all_input_nodes
