"""Cut, run and compare; where that fails, set integers of modules anew, or give up what has a size written in."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bayesprune.sparse.compact.check import difference
from bayesprune.sparse.compact.cut import Cut, cut
from bayesprune.sparse.compact.facts import Facts, Uncut
from bayesprune.sparse.compact.graph import named
from bayesprune.sparse.compact.prepare import Prepared, prefix_of
from bayesprune.sparse.compact.solve import Solution, solve
from bayesprune.sparse.compact.written import Attributes, Ran, Suspect, run, suspects, trials

__all__ = ["settle"]

_NEAR = 4  # modules whose integers are tried where one raises
_ALONE = 16  # modules that are given up one at a time


def settle(
    masked: nn.Module, masks: Mapping[str, Tensor], prepared: Prepared, facts: Facts, example: object
) -> tuple[Solution, Cut]:
    """The largest cut whose results are those of the masked net, and the solution behind it.

    Raises:
        ValueError: the net's results differ from run to run.
    """
    limits: list[Uncut] = []
    stuck: set[str] = set()  # modules whose integers do not help
    while True:
        solution = solve(facts, *limits)
        found = suspects(facts, solution)
        made, attributes = cut(masked, masks, prepared, facts, solution), Attributes()
        apart, ran = _apart(masked, made, example)
        if ran.error is not None:
            made, attributes, ran = _cut(masked, masks, prepared, facts, solution, example, found, stuck)
            if ran.error is None:
                apart, ran = _apart(masked, made, example)
        if ran.error is None and apart <= _tolerance(made.net):
            return solution, made
        if ran.error is None and attributes:  # one of them means something else
            stuck |= attributes.keys()
            continue
        more = _raised(prepared.net, facts, solution, found, ran) if ran.error is not None else None
        if more is None:
            more = _differing(masked, masks, prepared, facts, limits, solution, found, example)
        if not more:
            told = f"they would differ by {apart:.1e} of the largest" if ran.error is None else str(ran.error)
            raise ValueError(
                f"compact cannot check {named(masked, '')}: nothing is cut, and yet its results are not those of the "
                f"masked net ({told}); is it never the same twice?"
            )
        limits += more


def _cut(
    masked: nn.Module,
    masks: Mapping[str, Tensor],
    prepared: Prepared,
    facts: Facts,
    solution: Solution,
    example: object,
    found: list[Suspect],
    stuck: set[str],
) -> tuple[Cut, Attributes, Ran]:
    """The cut net, the integers of its modules set until it runs, as far as that goes."""
    made = cut(masked, masks, prepared, facts, solution)
    attributes: Attributes = {}
    ran = run(made.net, example)
    while ran.error is not None:
        near = dict.fromkeys([ran.path, *(one.path for one in _before(facts, found, ran)[::-1])])
        paths = [path for path in near if path not in stuck][:_NEAR]
        tried = ((path, _helped(made.net, prepared.net, example, found, ran, path)) for path in paths)
        path, further = next(((path, one) for path, one in tried if one is not None), ("", None))
        if further is None:
            break
        attributes.setdefault(path, {}).update(further[0])
        ran = further[1]
    return (cut(masked, masks, prepared, facts, solution, attributes) if attributes else made), attributes, ran


def _helped(
    net: nn.Module, full: nn.Module, example: object, found: list[Suspect], ran: Ran, path: str
) -> tuple[dict[str, int | tuple[int, ...]], Ran] | None:
    """Integers of the module ``path``, set in ``net``, with which it runs further than it ran."""
    sides: dict[int, set[int]] = {}
    for one in found:
        for before, after in one.sides if one.path == path else ():
            sides.setdefault(before, set()).add(after)
    module = net.get_submodule(path)
    for trial in trials(full.get_submodule(path), sides):
        were = {name: getattr(module, name) for name in trial}
        if were == trial:
            continue
        for name, value in trial.items():
            setattr(module, name, value)
        again = run(net, example)
        if again.error is None or again.calls > ran.calls:
            return trial, again
        for name, value in were.items():
            setattr(module, name, value)
    return None


def _tolerance(net: nn.Module) -> float:
    dtype = next((x.dtype for x in net.parameters() if x.is_floating_point()), torch.float32)
    return max(1e-5, 4 * torch.finfo(dtype).eps)


def _apart(masked: nn.Module, made: Cut, example: object) -> tuple[float, Ran]:
    try:
        return difference(masked, made.net, example), Ran(None, "", 0)
    except Exception as error:  # whatever a forward raises
        return float("inf"), Ran(error, "", 0)


def _before(facts: Facts, found: list[Suspect], ran: Ran) -> list[Suspect]:
    """What was viewed before the module that raised was called, the last of it last."""
    starts = [place for path, place in facts.entered.items() if f"{path}.".startswith(prefix_of(ran.path))]
    return [one for one in found if one.place <= min(starts, default=len(facts.limits))]


def _raised(net: nn.Module, facts: Facts, solution: Solution, found: list[Suspect], ran: Ran) -> list[Uncut] | None:
    """What to leave as it is where a module raised: what it views itself, else what was viewed last before it."""
    own = [one for one in found if one.path == ran.path]
    if not own:
        own = _before(facts, found, ran)[-1:] or found[-1:]
    if own:
        return [limit for one in own for limit in one.limits]
    reason = f"{named(net, ran.path)} would raise: {str(ran.error).strip().splitlines()[0][:200]}"
    return _all(facts, solution, prefix_of(ran.path), reason) or _all(facts, solution, "", reason) or None


def _all(facts: Facts, solution: Solution, prefix: str, reason: str) -> list[Uncut]:
    """Leave all parameters whose names begin so as they are."""
    cut_along = [one for one in facts.axes if one.name.startswith(prefix) and bool(solution.of(one.atoms).any())]
    return [Uncut(one.atoms, 0, prefix.removesuffix("."), reason) for one in cut_along]


def _differing(
    masked: nn.Module,
    masks: Mapping[str, Tensor],
    prepared: Prepared,
    facts: Facts,
    limits: list[Uncut],
    solution: Solution,
    found: list[Suspect],
    example: object,
) -> list[Uncut]:
    """What to leave as it is where the results differ: of one module, where that is enough, else all that may be."""
    by_path: dict[str, list[Uncut]] = {}
    for one in found:
        by_path.setdefault(one.path, []).extend(one.limits)
    for more in list(by_path.values())[:_ALONE] if len(by_path) > 1 else []:
        made = cut(masked, masks, prepared, facts, solve(facts, *limits, *more))
        apart, ran = _apart(masked, made, example)
        if ran.error is None and apart <= _tolerance(made.net):
            return more
    more = [limit for each in by_path.values() for limit in each]
    return more or _all(facts, solution, "", "the smaller net's results would differ")
