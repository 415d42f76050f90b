"""Fits, predictions, loads and exports at once in threads: each is bit for bit what it is alone, or refused."""

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp

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


def test_a_seeded_fit_says_that_it_is_not_alone() -> None:
    """What others draw meanwhile, of the one generator that torch has, would change its numbers."""
    with pytest.warns(UserWarning, match="another thread is at work beside this seeded fit"):
        at_once(*(partial(fit, ready(k), k) for k in (0, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(ready(0), 0)
