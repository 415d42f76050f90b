"""Random generators of a fit: torch's, which it seeds, and those of its loader."""

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.poutine import runtime
from torch.utils.data import DataLoader, Dataset, Sampler

from bayesprune._turns import turns

__all__ = ["generators_of", "give_way", "seeded"]


@dataclass
class _Seeded:
    """Whose numbers the global generators give: as they were found by the outermost seeded block, for when it ends."""

    found: tuple[Any, ...] | None = None


_now = _Seeded()


_NOT_ALONE = (
    "another thread is at work beside this seeded fit, which gives what it gives alone only if nothing outside of "
    "bayesprune draws from torch's global generator meanwhile: make nets and data before the threads start"
)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """In turn with other threads: seed torch for a block, and put every global generator back afterwards.

    Without a seed it is the turn alone.
    """
    with turns.taken():
        if seed is None:
            yield
            return
        before, outermost = _states(), _now.found is None
        if outermost:
            _now.found = before
        torch.manual_seed(seed)
        try:
            yield
        finally:
            _set_states(_now.found if outermost and _now.found is not None else before)
            if outermost:
                _now.found = None


def give_way() -> None:
    """Between two steps of a fit: let another thread that asks have its turn, and go on as if there had been none."""
    if not turns.wanted:
        return
    handlers, found = list(runtime._PYRO_STACK), _now.found
    mine = _states()
    runtime._PYRO_STACK.clear()
    if found is not None:
        warnings.warn(_NOT_ALONE, stacklevel=2)
        _set_states(found)
        _now.found = None
    try:
        with turns.lent():
            pass
    finally:
        runtime._PYRO_STACK[:] = handlers
        if found is not None:
            _now.found = _states()
            _set_states(mine)


def _states() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def _set_states(states: tuple[Any, ...]) -> None:
    cpu, cuda, numpy, python = states
    torch.set_rng_state(cpu)
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
