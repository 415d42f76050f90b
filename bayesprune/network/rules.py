"""Rules that assign methods to weights: globs over parameter names, the first match wins."""

import warnings
from collections.abc import Mapping

from torch import nn

from bayesprune._names import matching
from bayesprune.layout import layout_of
from bayesprune.methods.base import Method, Posterior
from bayesprune.methods.weight import Weight
from bayesprune.network.padding import padding_of
from bayesprune.patterns import PatternError

__all__ = ["FrozenWarning", "posteriors_of"]


class FrozenWarning(UserWarning):
    """A rule's glob matches a weight that the user froze; it stays frozen."""


def posteriors_of(net: nn.Module, rules: Mapping[str, Method]) -> dict[str, tuple[Method, Posterior]]:
    """Give each parameter of ``net`` that a rule matches its method and posterior.

    Args:
        net: any module.
        rules: glob over dotted parameter names → method, in order of precedence.

    Returns:
        Parameter name → (method, posterior), in the net's order. What no rule matches is left out.

    Warns:
        FrozenWarning: a glob matches weights that do not require a gradient; they are left out.
        UserWarning: a glob matches another name of a tied weight alone, which no rule matches by its first.

    Raises:
        TypeError: a rule's value is no method.
        ValueError: a rule matches nothing, a pattern does not fit a tensor (both are named), or a weight is unfit.

    >>> from bayesprune.methods import SparseVD
    >>> list(posteriors_of(nn.Sequential(nn.Linear(3, 2)), {"*.weight": SparseVD()}))
    ['0.weight']
    """
    for glob, method in rules.items():
        if not isinstance(method, Method):
            raise TypeError(f"rule {glob!r} needs a method such as SparseVD(), got {method!r}")
    for name, parameter in net.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise ValueError(f"{name!r} has no shape yet: run the net once on a batch before giving it a posterior")
    names = [name for name, _ in net.named_parameters()]
    taken = {glob: set(matching(glob, names)) for glob in rules}
    found: dict[str, tuple[Method, Posterior]] = {}
    matched: set[str] = set()
    frozen: list[str] = []
    for name, parameter in net.named_parameters():
        globs = [g for g in rules if name in taken[g]]
        if not globs:
            continue
        glob = globs[0]
        matched.add(glob)
        if not parameter.requires_grad and glob != name:
            frozen.append(name)
            continue
        method = rules[glob]
        try:
            weight = Weight(name, parameter, method.pattern, layout_of(net, name), padding_of(net, name))
        except PatternError as error:
            raise PatternError(
                f"rule {glob!r} does not fit {name!r}: {error}. Give {name!r} a rule of its own before {glob!r}"
            ) from None
        found[name] = method, method.posterior(weight)
    if frozen:
        warnings.warn(
            f"rules match {frozen}, which are frozen (requires_grad=False): they stay so, without a posterior; "
            "a rule that is a weight's exact name gives it one all the same",
            FrozenWarning,
            stacklevel=3,
        )
    _warn_of_ties(net, rules, found)
    for glob in rules:
        if glob not in matched:
            shadow = next((g for g in rules if taken[g] & taken[glob]), None)
            why = f"rule {shadow!r} before it takes all it matches" if shadow else _tied(net, glob)
            why = why or f"the parameters are {names}"
            raise ValueError(f"rule {glob!r} matches no parameter: {why}")
    return found


def _tied(net: nn.Module, glob: str) -> str | None:
    """That a glob matches another name of a tensor alone, where it does."""
    first = _first_names(net)
    for name in matching(glob, first):
        if (own := first[name]) != name:
            return f"{name!r} is tied to {own!r}, one tensor that goes by its first name; give {own!r} the rule"
    return None


def _warn_of_ties(net: nn.Module, rules: Mapping[str, Method], found: Mapping[str, object]) -> None:
    """Say so where a glob matches another name of a weight that gets no posterior by its first."""
    first = _first_names(net)
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    for glob in rules:
        names = matching(glob, first)
        left = [n for n in names if first[n] != n and first[n] in trained - found.keys()]
        if left and any(first[name] in found for name in names):  # else the rule is refused
            warnings.warn(
                f"rule {glob!r} matches {left[0]!r}, which is tied to {first[left[0]]!r}: one tensor that goes by its "
                "first name, which no rule matches, and which stays without a posterior",
                stacklevel=4,
            )


def _first_names(net: nn.Module) -> dict[str, str]:
    """Every name of every parameter → its tensor's first one."""
    first = {id(parameter): name for name, parameter in net.named_parameters()}
    return {name: first[id(parameter)] for name, parameter in net.named_parameters(remove_duplicate=False)}
