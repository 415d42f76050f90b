"""Data sets that are read several times: another order is refused, labelled or not, whatever batches are made of."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

import bayesprune as bp
from bayesprune.evaluation.passes import steady

X, Y = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


class Inputs(nn.Module):
    """A net that takes one input, two, or named ones."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        return self.fc(x if more is None else x + more)


class Stream(IterableDataset):
    """Examples in an order that Python's own generator gives."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter([X[i] for i in random.sample(range(60), 60)])


class Augmented:
    """Batches in order, with noise that is new in each pass."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter([part + 0.1 * torch.randn_like(part) for part in X.split(20)])


class Turned:
    """Large images, all in one batch, which are turned about in every other pass."""

    passes = 0

    def __init__(self, turn: Callable[[Tensor], Tensor]) -> None:
        self.turn, self.x = turn, torch.zeros(20, 3, 64, 64)
        self.x[:, :, 20:44, 20:44] = (torch.rand(20, 3, 24, 24) > 0.5).float()

    def __iter__(self) -> Iterator[Tensor]:
        self.passes += 1
        return iter([self.turn(self.x) if self.passes % 2 else self.x])


class Grows:
    """Each pass has a batch more than the one before."""

    passes = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.passes += 1
        return iter([X[:20]] * self.passes)


def named(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    x, more = (torch.stack(column) for column in zip(*rows, strict=True))
    return {"x": x, "more": more}


def over(data: Any, shuffle: bool, **options: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=20, shuffle=shuffle, **options)


SHUFFLED: dict[str, Callable[[], Any]] = {
    "inputs alone": lambda: over(TensorDataset(X), True),
    "a list of tensors": lambda: over(list(X), True),
    "with labels": lambda: over(TensorDataset(X, Y), True),
    "labels that are all the same": lambda: over(TensorDataset(X, torch.zeros(60).long()), True),
    "named inputs": lambda: over(TensorDataset(X, X), True, collate_fn=named),
    "bfloat16": lambda: over(list(X.bfloat16().float()), True),
    "a sampler": lambda: DataLoader(TensorDataset(X), batch_size=20, sampler=SubsetRandomSampler(range(60))),
    "a generator of its own": lambda: over(list(X), True, generator=torch.Generator().manual_seed(1)),
    "workers": lambda: over(list(X), True, num_workers=2),
    "a stream": lambda: DataLoader(Stream(), batch_size=20),
    "augmented": Augmented,
    "more batches": Grows,
}


@pytest.fixture
def bnet() -> bp.BayesianNet:
    torch.manual_seed(0)
    made = bp.BayesianNet(Inputs(), {"fc.weight": bp.Gaussian()})
    bp.classify(made, 60)
    return made


@pytest.mark.parametrize("case", SHUFFLED)
def test_another_order_is_refused(bnet: bp.BayesianNet, case: str) -> None:
    for door in (bp.predict, bp.to_inference_data):
        with pytest.raises(ValueError, match=r"order changes.*shuffle=False"):
            door(bnet, SHUFFLED[case](), draws=3)


@pytest.mark.parametrize("case", ["inputs alone", "a list of tensors", "a sampler", "a stream", "augmented"])
def test_one_pass_without_labels_is_refused_too(bnet: bp.BayesianNet, case: str) -> None:
    """Which example a row belongs to could not be told."""
    with pytest.raises(ValueError, match=r"order changes.*shuffle=False"):
        bp.predict(bnet, SHUFFLED[case](), draws=1)


def test_one_pass_with_labels_is_taken_as_it_comes(bnet: bp.BayesianNet) -> None:
    found = bp.predict(bnet, SHUFFLED["with labels"](), draws=1)
    assert found.targets is not None and sorted(found.targets.tolist()) == sorted(Y.tolist())


@pytest.mark.parametrize("draws", [1, 3])
def test_a_steady_loader_gives_what_one_batch_gives(draws: int) -> None:
    torch.manual_seed(0)
    bnet = bp.BayesianNet(Inputs(), {"fc.weight": bp.Deterministic()})  # for a pass over a loader moves the generator
    bp.classify(bnet, 60)
    right = bp.predict(bnet, [X], draws=draws, seed=0).draws
    for loader in (
        over(list(X), False),
        over(TensorDataset(X), False),
        over(list(X), False, num_workers=2),
        iter(X.split(20)),
        list(X.split(20)),
    ):
        state = torch.get_rng_state()
        found = bp.predict(bnet, loader, draws=draws, seed=0)
        assert torch.equal(torch.get_rng_state(), state)
        torch.testing.assert_close(found.draws, right)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(()),
        torch.zeros(0, 3),
        torch.randn(3, 4).T,
        torch.randn(4, dtype=torch.complex64).conj(),
        torch.randn(3).bfloat16(),
        torch.eye(3).to_sparse(),
        torch.tensor([True, False]),
        {"a": [torch.ones(2), "text", 3]},
        object(),
    ],
    ids=["0-d", "empty", "strided", "complex", "bfloat16", "sparse", "bool", "nested", "opaque"],
)
def test_all_kinds_of_batches_are_read_again(value: Any) -> None:
    class Loader:
        def __iter__(self) -> Iterator[Any]:
            return iter([value])

    loader = steady(Loader())
    assert [len(list(loader)) for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    "turn",
    [lambda x: x.flip(0), lambda x: x.roll(1, 0), lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.double()],
    ids=["examples reversed", "examples shifted", "mirrored", "upside down", "another type"],
)
def test_large_examples_are_told_apart(turn: Callable[[Tensor], Tensor]) -> None:
    """Of those, only some entries are read."""
    loader = steady(Turned(turn))
    list(loader)
    with pytest.raises(ValueError, match="batch 0 is another"):
        list(loader)


# --- batches of different lengths ----------------------------------------------------------------------------------


class Tagger(nn.Module):
    """A class for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(10, 8), nn.Linear(8, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(self.embed(x))


@pytest.mark.parametrize("lengths", [(5, 7, 3), (5, 5, 6), (4, 4, 4, 1)])
@pytest.mark.parametrize("labels", [True, False])
def test_batches_of_different_lengths_are_one_line_before_all_draws(lengths: tuple[int, ...], labels: bool) -> None:
    net = Tagger()
    bnet = bp.BayesianNet(net, {"fc.weight": bp.SparseVD()})
    bp.classify(bnet, 12)
    parts = [(torch.randint(0, 10, (4, n)), torch.randint(0, 3, (4, n))) for n in lengths]
    batches = parts if labels else [x for x, _ in parts]
    doors = [lambda: bp.predict(bnet, batches, draws=50), lambda: bp.to_inference_data(bnet, batches, draws=50)]
    masks = bp.masks(bnet, keep=0.9)
    if labels:
        doors.append(lambda: bp.sweep(bnet, batches, keep=[0.9], saliencies=[bp.snr]))
        doors.append(lambda: bp.report(bnet, masks, batches))
    for door in doors[:3]:
        net.calls = 0
        with pytest.raises(ValueError, match=r"\(4, 5, 3\)|\(4, 4, 3\).*different|pad them"):
            door()
        assert net.calls <= len(lengths)
    for door in doors[3:]:
        with pytest.raises(ValueError, match="pad them"):
            door()


def test_one_length_is_predicted_as_before() -> None:
    torch.manual_seed(0)
    bnet = bp.BayesianNet(Tagger(), {"fc.weight": bp.Gaussian()})
    bp.classify(bnet, 12)
    x = torch.randint(0, 10, (12, 5))
    assert bp.predict(bnet, x.split(5), draws=2).draws.shape == (2, 12, 5, 3)
