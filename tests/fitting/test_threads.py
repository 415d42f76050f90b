"""Fits, predictions, loads and exports at once in threads: each is bit for bit what it is alone, or refused."""

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.fitting.generators import seeded
from bayesprune.sparse.surgery.comparison import results

X, Y = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Threads change often, so that what can come between two lines does."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3))


def ready(seed: int) -> bp.BayesianNet:
    bnet = bp.BayesianNet(net(seed), {"*.weight": bp.Gaussian()})
    bp.classify(bnet, 40)
    return bnet


def fit(bnet: bp.BayesianNet, seed: int, **options: Any) -> dict[str, Any]:
    loader = DataLoader(TensorDataset(X, Y), batch_size=10, shuffle=True)
    bp.fit(bp.classify(bnet, 40), bnet.guide, loader, epochs=4, lr=0.02, seed=seed, progress=False, **options)
    return {name: value.clone() for name, value in bnet.means().items()}


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    gate, found = threading.Barrier(len(jobs)), dict[int, Any]()

    def run(k: int, job: Callable[[], Any]) -> None:
        gate.wait()
        try:
            found[k] = job()
        except Exception as error:
            found[k] = error

    threads = [threading.Thread(target=run, args=(k, job), daemon=True) for k, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == len(jobs), "a thread hangs"
    for result in found.values():
        if isinstance(result, Exception):
            raise result
    return [found[k] for k in range(len(jobs))]


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in two)


def test_fits_are_what_they_are_alone() -> None:
    alone = [fit(ready(seed), seed) for seed in (0, 1, 2)]
    nets = [ready(seed) for seed in (0, 1, 2)]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    together = at_once(*[lambda k=k: fit(nets[k], k) for k in (0, 1, 2)])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(same(one, two) for one, two in zip(together, alone, strict=True))


def test_steps_of_fits_alternate() -> None:
    """A fit of hours does not keep another thread's waiting until it ends."""
    seen: list[int] = []

    class Note(bp.Callback):
        def __init__(self, k: int) -> None:
            self.k = k

        def on_step(self, run: bp.Run) -> None:
            seen.append(self.k)

    nets = [ready(0), ready(1)]
    at_once(*[lambda k=k: fit(nets[k], k, callbacks=[Note(k)]) for k in (0, 1)])
    assert len(seen) == 32
    assert sum(a != b for a, b in pairwise(seen)) > 1


def test_predictions_are_what_they_are_alone() -> None:
    nets = [ready(0), ready(1)]
    alone = [bp.predict(bnet, [X], draws=20, seed=3).mean for bnet in nets]
    for _ in range(2):
        together = at_once(*[lambda k=k: bp.predict(nets[k], [X], draws=20, seed=3).mean for k in (0, 1)])
        assert all(torch.equal(one, two) for one, two in zip(together, alone, strict=True))


def test_one_net_is_predicted_from_by_two_threads() -> None:
    bnet = ready(0)
    alone = bp.predict(bnet, [X], draws=20, seed=3).mean
    together = at_once(*[lambda: bp.predict(bnet, [X], draws=20, seed=3).mean] * 3)
    assert all(torch.equal(one, alone) for one in together)
    assert bnet.training and bnet.net.training


def test_a_fit_beside_a_prediction_of_the_same_net_goes_on_in_training_mode() -> None:
    alone = fit(ready(0), 0)
    bnet = ready(0)
    fitted, _ = at_once(lambda: fit(bnet, 0), lambda: [bp.predict(bnet, [X], draws=2, seed=s).mean for s in range(5)])
    assert same(fitted, alone)


def test_a_fit_beside_loads_exports_and_draws_of_arviz(tmp_path: Path) -> None:
    other = ready(7)
    masks = bp.masks(other, keep=0.5)
    packed = bp.export(other.net, other.means(), masks, example=X)
    bp.save(packed, tmp_path / "model.safetensors")
    alone, want = fit(ready(0), 0), packed(X)
    bnet = ready(0)

    def loads() -> list[torch.Tensor]:
        return [bp.load(tmp_path / "model.safetensors")(X).detach() for _ in range(3)]

    def exports() -> list[torch.Tensor]:
        return [bp.export(other.net, other.means(), masks, example=X)(X).detach()]

    found = at_once(
        lambda: fit(bnet, 0), loads, exports, exports, lambda: bp.to_inference_data(other, [(X, Y)], draws=3, seed=0)
    )
    assert same(found[0], alone)
    assert all(torch.allclose(out, want, atol=1e-5) for outs in found[1:4] for out in outs)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_net_that_is_being_fitted_is_not_fitted_by_another_thread() -> None:
    bnet = ready(0)
    refused: list[str] = []

    class Again(bp.Callback):
        def on_epoch(self, run: bp.Run) -> None:
            if not refused:
                thread = threading.Thread(target=other, daemon=True)
                thread.start()

    def other() -> None:
        try:
            fit(bnet, 1)
        except ValueError as error:
            refused.append(str(error))

    fit(bnet, 0, callbacks=[Again()])
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and thread.daemon and thread._target is other:  # type: ignore[attr-defined]
            thread.join(30)
    assert refused and "in another thread" in refused[0]
    fit(bnet, 2)  # afterwards it is free


class Checkpointed(nn.Module):
    """Whose first layers run again in the backward pass, with the same draws."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.ReLU()), nn.Linear(8, 3)
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(checkpoint(self.first, x, use_reentrant=self.reentrant))


class SeedsItself(nn.Sequential):
    """A forward whose noise is the same in each pass, and which leaves the generator as it was."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            x = x + torch.randn_like(x)
        return super().forward(x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(3, 4, 2, dropout=0.4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(x.reshape(-1, 2, 3))[0][:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, dropout=0.4, batch_first=True)
        self.out = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, None] + torch.randint(0, 2, (2, 1)) * torch.rand(1)
        return self.out(self.attention(x, x, x)[0].mean(1))


DRAWING: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 3)),
    "alpha dropout": lambda: nn.Sequential(nn.Linear(6, 8), nn.AlphaDropout(0.3), nn.RReLU(), nn.Linear(8, 3)),
    "checkpointed": lambda: Checkpointed(False),
    "checkpointed, reentrant": lambda: Checkpointed(True),
    "seeds itself": SeedsItself,
    "lstm": Recurrent,
    "attention": Attending,
}


@pytest.fixture
def drawing_beside() -> Iterator[Callable[[], int]]:
    """A thread that does nothing but draw from torch's generator; gives how often it has."""
    stop, count = threading.Event(), 0

    def draws() -> None:
        nonlocal count
        while not stop.is_set():
            nn.Linear(2, 2)
            count += 1

    thread = threading.Thread(target=draws)
    yield lambda: (None if thread.is_alive() else thread.start(), count)[1]
    stop.set()
    if thread.is_alive():
        thread.join(30)


@pytest.mark.parametrize("make", DRAWING.values(), ids=list(DRAWING))
def test_a_seeded_fit_is_what_it_is_alone_whatever_is_drawn_beside_it(
    make: Callable[[], nn.Module], drawing_beside: Callable[[], int]
) -> None:
    torch.manual_seed(1)
    net = make()
    alone = fit(bp.BayesianNet(net, {"*.weight": bp.Gaussian()}), 0)
    again = bp.BayesianNet(net, {"*.weight": bp.Gaussian()})
    drawing_beside()
    beside = fit(again, 0)
    assert drawing_beside() > 0
    assert same(beside, alone)


def test_a_seeded_prediction_is_what_it_is_alone(drawing_beside: Callable[[], int]) -> None:
    bnet = ready(0)
    alone = bp.predict(bnet, [X], draws=30, seed=3).mean
    drawing_beside()
    assert torch.equal(bp.predict(bnet, [X], draws=30, seed=3).mean, alone)


def test_nets_are_compared_with_the_same_draws_in_a_seeded_block_too(drawing_beside: Callable[[], int]) -> None:
    """As a report does, which exports: dropout must drop the same in both."""
    made = net(0)
    alone = results(made, X, training=True)[0]
    drawing_beside()
    with seeded(3):
        assert all(torch.equal(results(made, X, training=True)[0], alone) for _ in range(3))


def test_a_thread_that_comes_while_a_fit_is_under_way_changes_nothing() -> None:
    come, stop, drawn = threading.Event(), threading.Event(), list[torch.Tensor]()

    def draws() -> None:
        come.wait(30)
        while not stop.is_set():
            drawn.append(torch.rand(3))

    class Start(bp.Callback):
        def on_step(self, run: bp.Run) -> None:
            if run.step == 5:
                thread.start()  # it is seen between two steps, and draws from the next one on
            elif run.step == 6:
                come.set()

    thread, alone = threading.Thread(target=draws), fit(ready(0), 0)
    bnet = ready(0)
    before = torch.get_rng_state()
    beside = fit(bnet, 0, callbacks=[Start()])
    stop.set()
    thread.join(30)
    assert same(beside, alone)
    torch.set_rng_state(before)
    assert drawn and all(torch.equal(torch.rand(3), numbers) for numbers in drawn)  # as if there were no fit


def test_what_is_drawn_beside_a_seeded_fit_is_what_is_drawn_alone() -> None:
    torch.manual_seed(5)
    alone, nets = torch.rand(400), [ready(0)]
    started = threading.Event()

    class Note(bp.Callback):
        def on_step(self, run: bp.Run) -> None:
            started.set()

    thread = threading.Thread(target=lambda: fit(nets[0], 0, callbacks=[Note()]))
    torch.manual_seed(5)
    thread.start()
    assert started.wait(30)
    drawn = torch.cat([torch.rand(1) for _ in range(400)])
    thread.join(60)
    assert torch.equal(drawn, alone)


def test_a_checkpoint_written_beside_others_is_the_one_written_alone(
    tmp_path: Path, drawing_beside: Callable[[], int]
) -> None:
    class Stop(bp.Callback):
        def on_epoch(self, run: bp.Run) -> None:
            if run.progress > 0.7:
                raise RuntimeError("stop")

    alone = fit(ready(0), 0)
    with pytest.raises(RuntimeError, match="stop"):
        fit(ready(0), 0, checkpoint=tmp_path, callbacks=[Stop()])
    bnet = ready(0)
    drawing_beside()
    assert same(fit(bnet, 0, checkpoint=tmp_path), alone)


def test_torch_is_as_it_was_afterwards() -> None:
    found = vars(torch.random)["default_generator"]
    at_once(*(partial(fit, ready(k), k) for k in (0, 1)))
    assert vars(torch.random)["default_generator"] is found is torch.default_generator
