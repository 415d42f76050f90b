"""``fit(model, data)``: the guide implied, the size counted; several models on one net, each with its likelihood."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

import bayesprune as bp

N = 20
X, Y = torch.randn(N, 4, generator=torch.Generator().manual_seed(0)), torch.arange(N) % 3
DATA = TensorDataset(X, Y)


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(X, Y, strict=True))


def new() -> bp.BayesianNet:
    torch.manual_seed(0)
    return bp.BayesianNet(nn.Sequential(nn.Linear(4, 3)), {"0.weight": bp.Gaussian()})


def fit(*given: Any, **kwargs: Any) -> bp.History:
    return bp.fit(*given, **{"epochs": 2, "lr": 0.01, "seed": 0, "progress": False, **kwargs})


def means(bnet: bp.BayesianNet) -> Tensor:
    return bnet.means()["0.weight"]


def test_the_guide_is_implied() -> None:
    told, implied, alone = new(), new(), new()
    fit(bp.classify(told, N), told.guide, DATA)
    fit(bp.classify(implied), DATA)
    bp.classify(alone)
    fit(alone, DATA)
    assert torch.equal(means(told), means(implied)) and torch.equal(means(told), means(alone))
    bp.fit(bp.classify(implied), loader=DATA, epochs=1, progress=False)
    assert implied.epochs == 3


def test_a_module_around_the_net_implies_its_guide() -> None:
    class Wrapped(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor, y: Tensor) -> Any:
            return self.model(x, y)

    told, wrapped = new(), new()
    fit(bp.classify(told, N), told.guide, [(X, Y)])
    fit(Wrapped(bp.classify(wrapped, N)), [(X, Y)])
    assert torch.equal(means(told), means(wrapped))


COUNTED: dict[str, tuple[Callable[[], Any], int]] = {
    "a loader": (lambda: DataLoader(DATA, batch_size=6), N),
    "its batches made by the sampler": (
        lambda: DataLoader(DATA, sampler=BatchSampler(range(N), 6, False), batch_size=None),
        N,
    ),
    "a batch sampler": (
        lambda: DataLoader(DATA, batch_sampler=BatchSampler(SubsetRandomSampler(range(8)), 3, False)),
        8,
    ),
    "some of the examples": (lambda: DataLoader(DATA, batch_size=6, sampler=SubsetRandomSampler(range(9))), 9),
    "a data set": (lambda: DATA, N),
    "one batch": (lambda: (X, Y), N),
    "a list": (lambda: [(X, Y), (X[:7], Y[:7])], N + 7),
    "a stream": (lambda: DataLoader(Stream(), batch_size=6), N),
    "a data set of batches": (lambda: DataLoader([(X, Y), (X[:7], Y[:7])], batch_size=None), N + 7),
}


@pytest.mark.parametrize("kind", COUNTED)
def test_the_size_is_counted(kind: str) -> None:
    make, size = COUNTED[kind]
    model = bp.classify(new())
    assert model.size is None
    fit(model, make(), epochs=1)
    assert model.size == size


def test_a_counted_size_is_counted_again_for_other_data() -> None:
    model = bp.classify(new())
    fit(model, (X, Y), epochs=1)
    fit(model, (X[:7], Y[:7]), epochs=1)
    assert model.size == 7


def test_without_a_size_a_model_does_not_guess_one() -> None:
    model = bp.classify(new())
    with pytest.raises(ValueError, match=r"size.*is not known: say size=, or fit with bp\.fit"):
        model(X, Y)
    assert model(X).shape == (N, 3)


def test_a_later_model_changes_no_earlier_one() -> None:
    alone, both = new(), new()
    fit(bp.classify(alone), DATA)
    first = bp.classify(both)
    bp.regress(both)
    fit(first, DATA)
    assert torch.equal(means(alone), means(both))
    assert torch.equal(bp.predict(alone, X, seed=0).mean, bp.predict(both, X, seed=0).mean)


def test_what_was_fitted_is_what_a_net_is_read_by() -> None:
    bnet = new()
    fit(bp.classify(bnet), DATA)
    sure = bp.predict(bnet, X, seed=0).mean
    with pytest.warns(UserWarning, match=r"fitted with Categorical targets.*fit this model of Normal targets"):
        numbers = bp.regress(bnet)
    assert torch.equal(bp.predict(bnet, X, seed=0).mean, sure)
    fit(numbers, (X, torch.randn(N, 3)))
    assert not torch.allclose(bp.predict(bnet, X, seed=0).mean.sum(-1), torch.ones(N))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bp.regress(bnet, noise=0.5).bnet.observation.noise == pytest.approx(0.5)  # of one kind: the last made


def test_a_model_in_the_nets_place_is_read_by_its_own_likelihood() -> None:
    bnet = new()
    classes = bp.classify(bnet)
    numbers = bp.regress(bnet)
    assert torch.allclose(bp.predict(classes, X).mean.sum(-1), torch.ones(N))
    assert not torch.allclose(bp.predict(numbers, X).mean.sum(-1), torch.ones(N))


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a net that says nothing": (lambda: fit(new(), DATA), ValueError, r"fit bp\.classify\(bnet\) for classes"),
    "a net without a posterior": (
        lambda: fit(nn.Linear(4, 3), DATA),
        ValueError,
        "no BayesianNet in Linear: a net needs",
    ),
    "a function without its guide": (lambda: fit(lambda x, y: 0, DATA), ValueError, r"needs its guide, bnet\.guide"),
    "no data": (lambda: fit(bp.classify(new())), TypeError, "expected data, got NoneType"),
    "a guide and no data": (
        lambda: fit(bp.classify(bnet := new()), bnet.guide),
        TypeError,
        "expected data, got method",
    ),
    "a loader for a size": (lambda: bp.classify(new(), DATA), ValueError, "left out, bp.fit counts"),  # type: ignore[arg-type]
    "a model of no posterior": (lambda: bp.classify(nn.Linear(4, 3)), TypeError, r"bp\.BayesianNet\(net,"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_fitted_is_a_clear_error(what: str) -> None:
    do, kind, words = WRONG[what]
    with pytest.raises(kind, match=words):
        do()
