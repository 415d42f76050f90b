"""Sizes that a forward holds in integers of its module, or has written in: found when the smaller net is run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import nn

from bayesprune.sparse.checks import call
from bayesprune.sparse.compact.atoms import distinct, varying
from bayesprune.sparse.compact.facts import Facts, Parts, Rect, Uncut
from bayesprune.sparse.compact.solve import Solution, box

__all__ = ["Attributes", "Ran", "Suspect", "run", "suspects", "trials"]

Attributes = dict[str, dict[str, int | tuple[int, ...]]]  # by module, integers that are set anew
_TRIALS = 32


@dataclass(frozen=True)
class Ran:
    """How far a net ran.

    Args:
        error: what it raised; None where it ran through.
        path: the innermost module that raised.
        calls: how many calls of modules came back.
    """

    error: Exception | None
    path: str
    calls: int


def run(net: nn.Module, example: object) -> Ran:
    """Run ``net`` and see where it raises."""
    entered: list[str] = []
    calls = 0
    handles = []

    def leave(_module: nn.Module, _args: object, _result: object) -> None:
        nonlocal calls
        calls += 1
        entered.pop()

    for path, module in net.named_modules():

        def enter(_module: nn.Module, _args: object, path: str = path) -> None:
            entered.append(path)

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with torch.no_grad():
            call(net, example)
    except Exception as error:  # whatever a forward raises
        return Ran(error, entered[-1] if entered else "", calls)
    finally:
        for handle in handles:
            handle.remove()
    return Ran(None, "", calls)


@dataclass(frozen=True)
class Suspect:
    """A view, a split or a new tensor that was cut along axes whose lengths may be written in.

    Args:
        path: the module that makes it.
        place: among all limits.
        sides: each length before and after.
        limits: what keeps these axes whole.
    """

    path: str
    place: int
    sides: tuple[tuple[int, int], ...]
    limits: tuple[Uncut, ...] = field(repr=False)


def suspects(facts: Facts, solution: Solution) -> list[Suspect]:
    """What was cut along lengths that may be written in, in the order in which it runs."""
    found = []
    for place, limit in enumerate(facts.limits):
        if not isinstance(limit, Parts) and not (isinstance(limit, Rect) and limit.viewed):
            continue
        spots = varying(limit.labels)
        stays = box(solution.of(distinct(limit.labels)))
        sides, limits = [], []
        for axis in [limit.axis] if isinstance(limit, Parts) else spots:
            before, after = len(stays[axis]), int(stays[axis].sum())
            if before == after:
                continue
            sides.append((before, after))
            if isinstance(limit, Parts):
                sides.append((before // limit.count, after // limit.count))
            reason = f"a size is written into the forward of {limit.path or 'the net'}"
            limits.append(Uncut(limit.labels, axis, limit.path, reason))
        if limits:
            found.append(Suspect(limit.path, place, tuple(sides), tuple(limits)))
    return found


def trials(module: nn.Module, sides: Mapping[int, set[int]]) -> Iterator[dict[str, int | tuple[int, ...]]]:
    """Integers of ``module`` that equal lengths of before, each alone and then all, set to what these are now.

    >>> conv = nn.Module()
    >>> conv.width, conv.heads = 8, 2
    >>> list(trials(conv, {8: {4}}))
    [{'width': 4}]
    """

    def changed(value: Any, pick: Callable[[set[int]], int]) -> Any:
        if type(value) is int:
            return pick(sides[value]) if value in sides else value
        if type(value) is tuple and value and all(type(one) is int for one in value):
            return tuple(changed(one, pick) for one in value)
        return value

    def found() -> Iterator[dict[str, int | tuple[int, ...]]]:
        own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        each: dict[str, int | tuple[int, ...]] = {}
        for pick in (min, max):
            for name, value in own.items():
                new = changed(value, pick)
                if new != value and (name not in each or each[name] != new):
                    each.setdefault(name, new)
                    yield {name: new}
        if len(each) > 1:
            yield each

    yield from islice(found(), _TRIALS)
