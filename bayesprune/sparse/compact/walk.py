"""Propagate channel labels along the graph: one rule per operator."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.sparse.checks import shared_names
from bayesprune.sparse.compact.atoms import distinct, tight
from bayesprune.sparse.compact.facts import Facts, Mix, Rect, Whole
from bayesprune.sparse.compact.graph import Graph, where, within

__all__ = ["RULES", "Value", "Walk", "rule"]

_LARGEST = 1 << 22  # entries of a parameter that enters entry by entry
_LARGEST_MADE = 1 << 14  # slices of a tensor that a forward makes


@dataclass(frozen=True)
class Value:
    """What the analysis knows of one tensor.

    Args:
        labels: the atom of each entry, tight.
        sums_to_one: the axis along which it does, as a softmax makes it.
    """

    labels: Tensor
    sums_to_one: int | None = None

    @property
    def shape(self) -> torch.Size:
        return self.labels.shape

    @property
    def atoms(self) -> Tensor:
        """The atoms that are in it."""
        return distinct(self.labels).unique()


Result = Value | list[Any] | tuple[Any, ...]
Rule = Callable[["Walk", fx.Node], Result]
RULES: dict[Any, Rule] = {}


def rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operators, in all their overloads."""

    def register(one: Rule) -> Rule:
        for operator in operators:
            RULES[operator] = one
        return one

    return register


class Walk:
    """Walks once along the graph of ``net`` and gathers :class:`Facts`."""

    def __init__(
        self, net: nn.Module, graph: Graph, masks: Mapping[str, Tensor], closed: Mapping[str, str], pointwise: Rule
    ) -> None:
        self.net, self.masks, self.closed, self.pointwise = net, masks, closed, pointwise
        self.facts = Facts()
        self.tensors: dict[str, Tensor] = {**dict(net.named_parameters(remove_duplicate=False))}
        self.tensors |= dict(net.named_buffers(remove_duplicate=False))
        self.shared = {name for name, names in shared_names(net).items() if len(names) > 1}
        self.shared = {other for name in self.shared for other in shared_names(net)[name]}
        self.names = dict(graph.names)
        self.constants = graph.constants
        self.values: dict[fx.Node, Result] = {}
        self.given = graph.given
        for node in graph.nodes:
            self._step(node)
        last = {where(node): self.value(node) for node in graph.nodes if node.op == "call_function"}
        self.facts.dropped = [one.atoms for path in graph.dropped if (one := last.get(path)) is not None]

    # what rules ask for

    def value(self, argument: object) -> Value | None:
        """What is known of an argument; None where it is no tensor. A parameter is labelled entry by entry."""
        if not isinstance(argument, fx.Node):
            return None
        found = self.values.get(argument)
        if found is None and argument.op == "placeholder":
            found = self.values[argument] = self._entries(argument)
        return found if isinstance(found, Value) else None

    def labelled(self, argument: object) -> list[Value]:
        """All tensors among (nested) arguments."""
        if isinstance(argument, tuple | list):
            return [value for one in argument for value in self.labelled(one)]
        if isinstance(argument, Mapping):
            return self.labelled(list(argument.values()))
        found = self.value(argument)
        return [] if found is None else [found]

    def parameter(self, argument: object) -> str | None:
        """The name of the parameter or buffer that this argument is, and no other of the net; else None."""
        if not isinstance(argument, fx.Node) or argument.name not in self.names:
            return None
        name = self.names[argument.name]
        return None if name in self.shared or self.shut(name.rpartition(".")[0]) is not None else name

    def watch(self, graph: Graph, paths: Sequence[str]) -> None:
        """Keep whole what the hooks of modules see: what goes into them, and their results."""
        for path in paths:
            reason = f"{path or 'the net'} carries hooks, which may count on its sizes"
            for node in graph.nodes:
                mine = _calls(node, path)
                crosses = any(mine - _calls(user, path) for user in node.users)
                into = [one for one in node.all_input_nodes if mine - _calls(one, path) and one.name not in self.names]
                for value in self.labelled([*into, *([node] if crosses else [])]):
                    self.facts.pin(value.atoms, reason)

    def kept(self, name: str) -> Tensor:
        """The mask of a parameter; all True where it has none."""
        x = self.tensors[name]
        return self.masks[name] if name in self.masks else torch.ones(x.shape, dtype=torch.bool)

    def numbers(self, name: str) -> Tensor:
        """The values of a parameter or buffer in float64."""
        return self.tensors[name].detach().to("cpu", torch.float64)

    def shut(self, path: str) -> str | None:
        """Why the module ``path``, or one around it, stays as it is; None where it need not."""
        parts = path.split(".") if path else []
        above = (".".join(parts[:depth]) for depth in range(len(parts) + 1))
        return next((self.closed[one] for one in above if one in self.closed), None)

    def fresh(self, shape: Sequence[int], into: Sequence[Value], reason: str) -> Value:
        """A tensor that depends on all of ``into``, of which nothing can go."""
        atom = self.facts.atoms.new(1)
        self.facts.pin(atom, reason)
        if into:
            self.facts.steps.append(Mix(atom, torch.cat([one.atoms for one in into])))
        return Value(atom.view([1] * len(shape)).expand(tuple(shape)))

    def barrier(self, node: fx.Node, reason: str) -> Result:
        """The results of an operator that reads whole channels, so that none of them can go."""
        into = self.labelled(node.args) + self.labelled(node.kwargs)
        if into:
            self.facts.pin(torch.cat([one.atoms for one in into]), reason)
        for one in node.all_input_nodes:
            if one.name in self.names:
                self.facts.stays.setdefault(self.names[one.name], reason)
        return self._like(node.meta.get("val"), into, reason)

    def unknown(self, node: fx.Node) -> Result:
        """A barrier, as what this operator does with channels is not known."""
        return self.barrier(node, f"what {node.target} in {where(node) or 'the net'} does with channels is not known")

    def sized(self, node: fx.Node, shape: Sequence[int], axes: Iterable[int], constant: float) -> Value:
        """A tensor that is ``constant`` all over, whose slices along ``axes`` go with what they meet."""
        sides = [side if axis in set(axes) else 1 for axis, side in enumerate(shape)]
        if prod(sides) > _LARGEST_MADE or prod(shape) == 0:
            sides = [1] * len(sides)
        own = self.facts.atoms.new(prod(sides), torch.full((prod(sides),), constant, dtype=torch.float64))
        if prod(sides) == 1:
            self.facts.pin(own, "its size is written in")
        labels = own.view(sides).expand(tuple(shape))
        self.facts.free.append((own, f"its size may be written into {where(node) or 'the net'}"))
        self.facts.limits.append(Rect(labels, where(node), viewed=True))
        return Value(labels)

    # how it goes

    def _like(self, meta: object, into: list[Value], reason: str) -> Result:
        if isinstance(meta, tuple | list):
            return [self._like(one, into, reason) for one in meta]
        shape = meta.shape if isinstance(meta, Tensor) else ()
        return self.fresh(shape, into, reason)

    def _entries(self, node: fx.Node) -> Value:
        """A parameter, buffer or constant that enters entry by entry."""
        name = self.names.get(node.name)
        x = (self.constants[node.name] if name is None else self.tensors[name]).detach()
        if name is None or x.numel() > _LARGEST or name in self.shared or not x.dim():
            value = self.facts.atoms.new(1, x.flatten()[:1].cpu() if x.numel() == 1 else None)
            self.facts.pin(value, "it is a constant of fixed size" if name is None else f"{name} stays whole")
            return Value(value.view([1] * x.dim()).expand(x.shape))
        labels = tight(self.facts.atoms.new(x.numel(), x.flatten().cpu()).view(x.shape))
        reason = self.shut(name.rpartition(".")[0])
        if reason is not None:
            self.facts.pin(labels.flatten(), reason)
        self.facts.wholes.append(Whole(name, labels))
        return Value(labels)

    def _step(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if node.name not in self.names and node.name not in self.constants:
                meta = node.meta.get("val")
                if isinstance(meta, Tensor):
                    self.values[node] = self.fresh(meta.shape, (), "it is the net's input")
        elif node.op == "output":
            outputs: Any = node.args[0]
            for value in self.labelled(list(outputs[: self.given])):
                self.facts.pin(value.atoms, "it is the net's output")
                self.facts.needed.append(value.atoms)
        elif node.op == "call_function":
            self.values[node] = self._apply(node)

    def _apply(self, node: fx.Node) -> Result:
        path = where(node)
        self.facts.entered.setdefault(path, len(self.facts.limits))
        reason = self.shut(path)
        if reason is not None:
            return self.barrier(node, reason)
        target = node.target
        if target in RULES:
            return RULES[target](self, node)
        packet = getattr(target, "overloadpacket", None)
        if packet in RULES:
            return RULES[packet](self, node)
        if torch.Tag.pointwise in getattr(target, "tags", ()):
            return self.pointwise(self, node)
        return self.unknown(node)


def _calls(node: fx.Node, path: str) -> set[str]:
    """The calls of the module ``path`` in which this operator is."""
    return {one for one in within(node) if re.sub(r"@\d+", "", one) == path}
