"""A random generator of a thread's own, from which it draws where it would from torch's global one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["own_generator"]

_DEFAULT = torch.default_generator
_local = threading.local()


class _OfThisThread:
    """In place of torch's default generator in :mod:`torch.random`: this thread's own, or else the default one.

    ``torch.manual_seed``, ``get_rng_state`` and ``fork_rng`` go through it, and so do whoever call them: activation
    checkpointing, and a forward that seeds itself.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(_local, "generator", _DEFAULT), name)


class _Routed:
    """How many threads have a generator of their own at the moment: as long as one has, torch asks whose it is."""

    def __init__(self) -> None:
        self._lock, self._threads = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._threads += 1
            vars(torch.random)["default_generator"] = _OfThisThread()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                vars(torch.random)["default_generator"] = _DEFAULT


_routed = _Routed()


class _Draws(TorchDispatchMode):
    """What a thread draws on the CPU from the default generator is drawn from another."""

    supports_higher_order_operators = True

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it would import torch's compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        how = _how_to_draw(func)
        return func(*args, **(kwargs or {})) if how is None else how(self.generator, args, kwargs or {})


Draw = Callable[[torch.Generator, tuple, dict[str, Any]], Any]


@cache
def _how_to_draw(func: Any) -> Draw | None:
    """How an operator draws from a generator that it is given; ``None`` for one that draws nothing."""
    if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
        return None
    arguments = _arguments(func)
    place = arguments.index("generator") if "generator" in arguments else None
    packet = func.overloadpacket
    others = (getattr(packet, name) for name in packet.overloads())
    given = next((other for other in others if sorted(_arguments(other)) == sorted([*arguments, "generator"])), None)

    def draw(generator: torch.Generator, args: tuple, kwargs: dict[str, Any]) -> Any:
        if _elsewhere(args, kwargs):
            return func(*args, **kwargs)
        if place is not None and place < len(args):
            instead = generator if args[place] in (None, _DEFAULT) else args[place]
            return func(*args[:place], instead, *args[place + 1 :], **kwargs)
        if place is not None:
            instead = generator if kwargs.get("generator") in (None, _DEFAULT) else kwargs["generator"]
            return func(*args, **{**kwargs, "generator": instead})
        if given is not None:
            return given(*args, **kwargs, generator=generator)
        found = _DEFAULT.get_state()  # it takes none
        _DEFAULT.set_state(generator.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            generator.set_state(_DEFAULT.get_state())
            _DEFAULT.set_state(found)

    return draw


def _arguments(func: Any) -> list[str]:
    return [argument.name for argument in func._schema.arguments]


def _elsewhere(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether an operator draws on another device than the CPU."""
    if (device := kwargs.get("device")) is not None:
        return torch.device(device).type != "cpu"
    first = next((x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)), None)
    return first is not None and first.device.type != "cpu"


@contextmanager
def own_generator() -> Iterator[None]:
    """For a block, this thread draws on the CPU from a generator of its own, which begins as the default one is.

    Whatever draws without naming a generator does: in Python or in an operator's inside, forward or backward, seeded
    anew or set back to a state. Other threads have the default one to themselves. What draws by
    ``torch.default_generator`` as an object, or inside a higher-order operator, is not led aside. A call of an
    operator takes some microseconds longer.

    >>> torch.manual_seed(0).get_state().equal(torch.get_rng_state())
    True
    >>> before, numbers = torch.get_rng_state(), torch.rand(3)
    >>> torch.set_rng_state(before)
    >>> with own_generator():
    ...     torch.equal(torch.rand(3), numbers)
    True
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    generator = torch.Generator()
    generator.set_state(torch.get_rng_state())
    before = getattr(_local, "generator", None)
    with _routed, _Draws(generator):
        _local.generator = generator
        try:
            yield
        finally:
            if before is None:
                del _local.generator
            else:
                _local.generator = before
