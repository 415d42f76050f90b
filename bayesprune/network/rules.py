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

    Raises:
        TypeError: ``rules`` is no mapping, or a rule's value no method.
        ValueError: a rule matches nothing, a pattern does not fit a tensor (both are named), or a weight is unfit.

    >>> from bayesprune.methods import SparseVD
    >>> list(posteriors_of(nn.Sequential(nn.Linear(3, 2)), {"*.weight": SparseVD()}))
    ['0.weight']
    """
    if isinstance(rules, (str, Method)) or not isinstance(rules, Mapping):
        wanted = repr(rules) if isinstance(rules, str) else '"*.weight"'
        given = repr(rules) if isinstance(rules, Method) else "bp.SparseVD()"
        raise TypeError(
            f"rules say which weights get which method, such as {{{wanted}: {given}}}; got {type(rules).__name__}"
        )
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
    for glob in rules:
        if glob not in matched:
            shadow = next((g for g in rules if taken[g] & taken[glob]), None)
            why = f"rule {shadow!r} before it takes all it matches" if shadow else _tied(net, glob)
            why = why or f"the parameters are {names}"
            raise ValueError(f"rule {glob!r} matches no parameter: {why}")
    return found


def _tied(net: nn.Module, glob: str) -> str | None:
    """That a glob matches another name of a tensor alone, where it does."""
    first = {id(parameter): name for name, parameter in net.named_parameters()}
    every = dict(net.named_parameters(remove_duplicate=False))
    for name in matching(glob, every):
        if (own := first[id(every[name])]) != name:
            return f"{name!r} is tied to {own!r}, one tensor that goes by its first name; give {own!r} the rule"
    return None
