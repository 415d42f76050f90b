"""Random generators of a fit: torch's, which it seeds, and those of its loader."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

__all__ = ["generators_of", "seeded"]


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch for a block, and put every global generator back afterwards; nothing without a seed."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            if seed is not None:  # a checkpoint sets these two as well
                random.setstate(states[0])
                np.random.set_state(states[1])


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
