"""Random generators of a fit: torch's, which it seeds, and those of its loader."""

import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from pyro.poutine import runtime
from torch.utils.data import DataLoader, Dataset, Sampler

from bayesprune._turns import turns
from bayesprune.fitting.own_generator import own_generator

__all__ = ["generators_of", "give_way", "seeded"]


class _Here(threading.local):
    """The seeded blocks of this thread.

    Attributes:
        found: the global generators as the outermost one found them, for when it ends; ``None`` outside of any.
        block: what ends with it.
        own: whether the thread draws from a generator of its own.
    """

    found: "_States | None" = None
    block: ExitStack
    own = False


_States = tuple[Any, ...]
_here = _Here()


_NOT_ALONE = (
    "another thread is at work beside this seeded fit, which gives what it gives alone only if nothing outside of "
    "bayesprune draws from CUDA's global generators meanwhile: make nets and data before the threads start"
)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """In turn with other threads: seed torch for a block, and put every global generator back afterwards.

    Where another thread may be at work beside this one, the block draws from a generator of its own. Without a seed it
    is the turn alone.
    """
    with turns.taken():
        if seed is None:
            yield
            return
        if _here.found is not None:
            before = _states()
            torch.manual_seed(seed)
            try:
                yield
            finally:
                _set_states(before)
            return
        _here.found = _states()
        try:
            with ExitStack() as _here.block:
                if _is_beside_others():
                    _draw_aside(_here.block)
                torch.manual_seed(seed)
                yield
        finally:
            found, own = _here.found, _here.own
            _here.found, _here.own = None, False
            _set_states(found[1:] if own else found)  # other threads have drawn from torch's since


def give_way() -> None:
    """Between two steps of a fit: let another thread that asks have its turn, and go on as if there had been none."""
    if _here.found is not None and not _here.own and _is_beside_others():
        _draw_aside(_here.block)
        torch.default_generator.set_state(_here.found[0])
    if not turns.wanted:
        return
    handlers = list(runtime._PYRO_STACK)
    found, mine = _here.found, _states()[1:]
    runtime._PYRO_STACK.clear()
    if found is not None:
        if torch.cuda.is_initialized():
            warnings.warn(_NOT_ALONE, stacklevel=2)
        _set_states(found[1:])
    try:
        with turns.lent():
            pass
    finally:
        runtime._PYRO_STACK[:] = handlers
        if found is not None:
            _here.found = (found[0], *_states()[1:])
            _set_states(mine)


def _is_beside_others() -> bool:
    """Whether another thread may draw random numbers meanwhile: one asks for its turn, or this is no program of one
    thread. Daemons beside the main thread alone (a progress bar's, a notebook's) are not counted."""
    if turns.wanted or threading.current_thread() is not threading.main_thread():
        return True
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    return any(not thread.daemon for thread in others)


def _draw_aside(block: ExitStack) -> None:
    """From here on to the end of ``block``, draw from a generator of this thread's own."""
    block.enter_context(own_generator())
    _here.own = True


def _states() -> _States:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def _set_states(states: _States) -> None:
    """From :func:`_states`, or from these without torch's own."""
    *cpu, cuda, numpy, python = states
    for state in cpu:
        torch.set_rng_state(state)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpy)
    random.setstate(python)


def generators_of(loader: Any) -> dict[str, torch.Generator]:
    """The generators that a loader, its samplers, their samplers and its data sets hold, by where they were found.

    >>> generator = torch.Generator()
    >>> sampler = torch.utils.data.RandomSampler(range(8), generator=generator)
    >>> batches = torch.utils.data.BatchSampler(sampler, 4, drop_last=False)
    >>> list(generators_of(DataLoader(range(8), batch_sampler=batches)))
    ['batch_sampler.sampler.generator']
    """
    found: dict[str, torch.Generator] = {}
    seen: set[int] = set()
    waiting = [("", loader)]
    while waiting:
        where, owner = waiting.pop()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        if isinstance(owner, torch.Generator):
            found[where] = owner
        elif isinstance(owner, (list, tuple)):
            waiting += [(f"{where}.{i}", part) for i, part in enumerate(owner) if isinstance(part, _OWNERS)]
        elif owner is loader or isinstance(owner, _OWNERS):
            parts = getattr(owner, "__dict__", {}).items()
            short = [(n, p) for n, p in parts if isinstance(p, _OWNERS) or (isinstance(p, list) and len(p) < 1000)]
            waiting += [(f"{where}.{name}".lstrip("."), part) for name, part in short]
    return dict(sorted(found.items()))


_OWNERS = (torch.Generator, Sampler, DataLoader, Dataset)
