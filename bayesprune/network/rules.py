"""Rules that assign methods to weights: globs over parameter names or classes of layers, the first match wins."""

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from bayesprune._names import matching
from bayesprune.layout import layout_of
from bayesprune.methods.base import Method, Posterior
from bayesprune.methods.weight import Weight
from bayesprune.network.outputs import output_layers, prunes_outputs
from bayesprune.network.padding import padding_of
from bayesprune.patterns import Pattern, PatternError

__all__ = ["FrozenWarning", "Key", "OutputLayerWarning", "matched_by", "posteriors_of"]

Key = str | type[nn.Module]
"""What a rule is for: a glob over parameter names, or a class of modules, which stands for their weights. A mapping's
keys are invariant to a type checker, and ``dict[str, …]`` is no mapping from ``Key``: the doors take ``Any`` there."""


class FrozenWarning(UserWarning):
    """A rule's glob matches a weight that the user froze; it stays frozen."""


class OutputLayerWarning(UserWarning):
    """A rule's glob matches a layer whose channels are the net's own outputs; it is left out."""


def posteriors_of(net: nn.Module, rules: Mapping[Any, Method | None]) -> dict[str, tuple[Method, Posterior]]:
    """Give each parameter of ``net`` that a rule matches its method and posterior.

    Args:
        net: any module.
        rules: glob over dotted parameter names, or a class of modules, which stands for their weights → method, in
            order of precedence; ``None`` leaves alone what it matches. A glob passes over the scales and shifts of
            norms, vectors that no layer needs pruned, unless it matches nothing else.

    Returns:
        Parameter name → (method, posterior), in the net's order. What no rule matches is left out.

    Warns:
        FrozenWarning: a glob matches weights that do not require a gradient; they are left out.
        OutputLayerWarning: ``Channel`` would prune the net's own outputs; these layers are left out.
        UserWarning: a glob matches another name of a tied weight alone, which no rule matches by its first.

    Raises:
        TypeError: ``rules`` is no mapping, a rule's key is neither, or its value no method.
        ValueError: a rule matches nothing, a pattern does not fit a tensor (both are named), a weight is unfit, or
            ``Channel`` would prune the net's own outputs and nothing else.

    >>> from bayesprune.methods import SparseVD
    >>> list(posteriors_of(nn.Sequential(nn.Linear(3, 2)), {"*.weight": SparseVD()}))
    ['0.weight']
    >>> net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    >>> list(posteriors_of(net, {"0.weight": None, nn.Linear: SparseVD()}))
    ['2.weight']
    """
    _check(net, rules)
    taken = {key: matched_by(net, key) for key in rules}
    outputs = _left_to_the_outputs(net, rules, taken)
    found: dict[str, tuple[Method, Posterior]] = {}
    matched: set[Key] = set()
    frozen: list[str] = []
    for name, parameter in net.named_parameters():
        key = next((key for key in rules if name in taken[key]), None)
        if key is None:
            continue
        matched.add(key)
        method = rules[key]
        if method is None or name in outputs:
            continue
        if not parameter.requires_grad and key != name:
            frozen.append(name)
            continue
        try:
            weight = Weight(name, parameter, method.pattern, layout_of(net, name), padding_of(net, name))
        except PatternError as error:
            raise PatternError(
                f"rule {_said(key)} does not fit {name!r}: {error}. Give {name!r} a rule of its own before {_said(key)}"
            ) from None
        found[name] = method, method.posterior(weight)
    if frozen:
        warnings.warn(
            f"rules match {frozen}, which are frozen (requires_grad=False): they stay so, without a posterior; "
            "a rule that is a weight's exact name gives it one all the same",
            FrozenWarning,
            stacklevel=3,
        )
    _warn_of_ties(net, rules, taken)
    for key in rules:
        if key not in matched:
            shadow = next((k for k in rules if taken[k] & taken[key]), None)
            why = f"rule {_said(shadow)} before it takes all it matches" if shadow is not None else _tied(net, key)
            why = why or f"the parameters are {[name for name, _ in net.named_parameters()]}"
            raise ValueError(f"rule {_said(key)} matches no parameter: {why}")
    return found


def _check(net: nn.Module, rules: Mapping[Key, Method | None]) -> None:
    if isinstance(rules, (str, Method)) or not isinstance(rules, Mapping):
        wanted = repr(rules) if isinstance(rules, str) else '"*.weight"'
        given = repr(rules) if isinstance(rules, Method) else "bp.SparseVD()"
        raise TypeError(
            f"rules say which weights get which method, such as {{{wanted}: {given}}}; got {type(rules).__name__}"
        )
    for key, method in rules.items():
        if not isinstance(key, str) and not (isinstance(key, type) and issubclass(key, nn.Module)):
            raise TypeError(f"a rule is for a glob over parameter names or for a class such as nn.Linear, got {key!r}")
        if method is not None and not isinstance(method, Method):
            raise TypeError(f"rule {_said(key)} needs a method such as SparseVD(), or None, got {method!r}")
    for name, parameter in net.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise ValueError(f"{name!r} has no shape yet: run the net once on a batch before giving it a posterior")


def _said(key: Key) -> str:
    return repr(key) if isinstance(key, str) else key.__name__


def matched_by(net: nn.Module, key: Key) -> set[str]:
    """The parameters that a rule is for, by their first names."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    if not isinstance(key, str):
        owned = [p for m in net.modules() if isinstance(m, key) for p in m._parameters.items()]
        return {names[id(p)] for leaf, p in owned if p is not None and "weight" in leaf}
    found = set(matching(key, names.values()))
    norms = {names[id(p)] for m in net.modules() if _is_norm(m) for p in m._parameters.values() if p is not None}
    return found - {name for name in norms if net.get_parameter(name).dim() < 2} or found


def _is_norm(module: nn.Module) -> bool:
    kinds = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    return isinstance(module, kinds) or type(module).__name__.endswith("Norm")


def _left_to_the_outputs(net: nn.Module, rules: Mapping[Key, Method | None], taken: Mapping[Key, set[str]]) -> set[str]:
    """The weights whose rule would prune the net's own outputs, and that are therefore left out.

    A net that is one of torch's own layers is taken for a part of another, in which its outputs are read.
    """
    pruning: dict[str, Key] = {}
    for name, _ in net.named_parameters():
        key = next((key for key in rules if name in taken[key]), None)
        method = None if key is None else rules[key]
        if key is not None and method is not None and prunes_outputs(method.pattern, net, name):
            pruning[name] = key
    if not pruning or (type(net).__module__.startswith("torch.nn.") and not isinstance(net, nn.Sequential)):
        return set()
    outputs = output_layers(net)
    left = outputs.names & pruning.keys()
    for name in sorted(left):
        key, pattern = pruning[name], _pattern(rules, pruning[name])
        if taken[key] - left:
            which = "whose outputs are the net's own" if outputs.traced else "the last layer, maybe that of the outputs"
            warnings.warn(
                f"rule {_said(key)} leaves {name!r} out, {which}: {pattern!r} would prune a class or a target each. A "
                f"rule for {name!r} before it may give it entries or blocks",
                OutputLayerWarning,
                stacklevel=5,
            )
        elif outputs.traced:
            groups, _, inputs, positions = layout_of(net, name).roles
            rows = f"; Block(1, {inputs}) has the same groups, for outputs that others read"
            raise ValueError(
                f"rule {_said(key)}: {pattern!r} of {name!r} prunes the net's own outputs, a class or a target each: "
                f"give it entries or blocks, or None to leave it alone{rows if groups == positions == 1 else ''}"
            )
        else:
            left -= {name}  # it may be another layer, and is asked for
    return set(left)


def _pattern(rules: Mapping[Key, Method | None], key: Key) -> Pattern | None:
    method = rules[key]
    return None if method is None else method.pattern


def _tied(net: nn.Module, glob: Key) -> str | None:
    """That a glob matches another name of a tensor alone, where it does."""
    if not isinstance(glob, str):
        return None
    first = _first_names(net)
    for name in matching(glob, first):
        if (own := first[name]) != name:
            return f"{name!r} is tied to {own!r}, one tensor that goes by its first name; give {own!r} the rule"
    return None


def _warn_of_ties(net: nn.Module, rules: Mapping[Key, Method | None], taken: Mapping[Key, set[str]]) -> None:
    """Say so where a glob matches another name of a weight that no rule matches by its first."""
    first = _first_names(net)
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    missed = trained - set().union(*taken.values())
    for glob in rules:
        if not isinstance(glob, str) or rules[glob] is None:
            continue
        names = matching(glob, first)
        left = [n for n in names if first[n] != n and first[n] in missed]
        if left and taken[glob]:  # else the rule is refused
            warnings.warn(
                f"rule {glob!r} matches {left[0]!r}, which is tied to {first[left[0]]!r}: one tensor that goes by its "
                "first name, which no rule matches, and which stays without a posterior",
                stacklevel=4,
            )


def _first_names(net: nn.Module) -> dict[str, str]:
    """Every name of every parameter → its tensor's first one."""
    first = {id(parameter): name for name, parameter in net.named_parameters()}
    return {name: first[id(parameter)] for name, parameter in net.named_parameters(remove_duplicate=False)}
