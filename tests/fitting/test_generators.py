"""The generators that a loader owns are found wherever they sit, once each."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, Subset, TensorDataset

from bayesprune.fitting.generators import generators_of

DATA = TensorDataset(torch.arange(12.0))


class Within(Sampler):
    """A sampler of samplers."""

    def __init__(self, parts: list[Sampler]) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[int]:
        for part in self.parts:
            yield from part


class Noisy(TensorDataset):
    def __init__(self, generator: torch.Generator) -> None:
        super().__init__(torch.arange(12.0))
        self.noise = generator


def sampler(generator: torch.Generator) -> RandomSampler:
    return RandomSampler(DATA, generator=generator)


PLACES: dict[str, Callable[[torch.Generator], Any]] = {
    "generator": lambda g: DataLoader(DATA, shuffle=True, generator=g),
    "sampler.generator": lambda g: DataLoader(DATA, sampler=sampler(g)),
    "batch_sampler.sampler.generator": lambda g: DataLoader(DATA, batch_sampler=BatchSampler(sampler(g), 4, False)),
    "sampler.parts.1.generator": lambda g: DataLoader(
        DATA, sampler=Within([sampler(torch.Generator()), Within([]), sampler(g)][::2])
    ),
    "dataset.noise": lambda g: DataLoader(Noisy(g)),
    "dataset.dataset.noise": lambda g: DataLoader(Subset(Noisy(g), range(6))),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_generator_is_found_wherever_it_is(place: str) -> None:
    generator = torch.Generator()
    found = generators_of(PLACES[place](generator))
    ours = [where for where, g in found.items() if g is generator]
    assert len(ours) == 1
    tail = place.rpartition(".")[2]
    assert ours[0].endswith(tail)


@pytest.mark.parametrize("loader", [[(1, 2)], DataLoader(DATA), DataLoader(DATA, shuffle=True), iter([])])
def test_a_loader_without_one_has_none(loader: Any) -> None:
    assert generators_of(loader) == {}
