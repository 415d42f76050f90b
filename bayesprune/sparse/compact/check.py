"""Check that the compacted net gives the masked net's results."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from torch import Tensor, nn

from bayesprune._copies import copied
from bayesprune.sparse.surgery.comparison import apart, inputs_like, results
from bayesprune.sparse.surgery.reference import widened

__all__ = ["difference"]

_DEEP = 4  # objects in one another in which a forward may keep something


def difference(dense: nn.Module, compact: nn.Module, example: object) -> float:
    """The largest difference of the nets' results, relative to the largest entry of the dense net's.

    On the example and on noise, as another number of inputs or, where the dense net takes no other, of its shape; in
    float64 where the nets run in it. Infinite where shapes differ.

    Raises:
        Exception: whatever the smaller net's forward raises.
    """
    inputs = inputs_like(example)
    first: list[object] | None = None
    known, ours = (_Copy(partial(_same_parameters, net)) for net in (dense, compact))
    try:
        wide = _Copy(partial(_double, dense))
        first = wide(widened(example))
        known, ours = wide, _Copy(partial(_double, compact))
        inputs = {what: widened(x) for what, x in inputs.items()}
    except Exception:  # a dtype that is written into a forward
        first = None
    shown, *noise = inputs.values()
    worst = apart(known(shown) if first is None else first, ours(shown))[0]
    for given in reversed(noise):  # the last is of another number
        try:
            expected = known(given)
        except Exception:  # it takes no other number of inputs, or no noise
            continue
        return max(worst, apart(expected, ours(given))[0])
    return worst


class _Copy:
    """A copy of a net that runs on one input after the other, each time as the net is: made anew after a run that left
    something behind on it, as most do not in eval mode."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self._make = make
        self._net: nn.Module | None = None

    def __call__(self, given: object) -> list[object]:
        """The results, of decoders without their caches, which are smaller with fewer heads; else as users run them."""
        net = self._make() if self._net is None else self._net
        before = list(_kept(net))
        self._net = None
        found = results(net, given, caches=False, fast_paths=True, alone=True)
        if _are_same(before, list(_kept(net))):
            self._net = net
        return found


def _same_parameters(net: nn.Module) -> nn.Module:
    return copied(net, {x: x for x in net.parameters()})


def _double(net: nn.Module) -> nn.Module:
    return copied(net).double()


def _kept(net: nn.Module) -> Iterator[tuple[object, int]]:
    """All that modules hold, and how often a tensor was written to or how much a container holds."""
    for module in net.modules():
        for value in vars(module).values():
            yield from _within(value, _DEEP)


def _within(value: object, deep: int) -> Iterator[tuple[object, int]]:
    if isinstance(value, Tensor):
        yield value, 0 if value.is_inference() else value._version
        return
    if isinstance(value, nn.Module | type) or callable(value) or not deep:
        yield value, 0
        return
    if isinstance(value, Mapping | list | tuple | set):
        yield value, len(value)
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _within(part, deep - 1)
        return
    yield value, 0
    for part in getattr(value, "__dict__", {}).values():
        yield from _within(part, deep - 1)


def _are_same(before: list[tuple[object, int]], after: list[tuple[object, int]]) -> bool:
    return len(before) == len(after) and all(a is b and m == n for (a, m), (b, n) in zip(before, after, strict=True))
