"""Data in any form at every door: a tensor is one batch, a data set gets a loader; what is neither is a clear error."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import bayesprune as bp
from bayesprune.fitting.given import batches_of

N = 24
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3
DATA = TensorDataset(X, Y)


@pytest.fixture
def bnet() -> bp.BayesianNet:
    torch.manual_seed(0)
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(4, 3)), {"0.weight": bp.Gaussian()})
    bp.classify(bnet, N)
    return bnet


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@pytest.mark.parametrize(
    "data", [X, (X, Y), DATA, DataLoader(DATA, batch_size=7), [(X[:9], Y[:9]), (X[9:], Y[9:])]], ids=type
)
def test_a_prediction_is_the_same_however_the_data_come(bnet: bp.BayesianNet, data: Any) -> None:
    expected = bp.predict(bnet, [(X, Y)], draws=1, seed=0)
    found = bp.predict(bnet, data, draws=1, seed=0)  # of more, a pass over a loader moves the generator
    torch.testing.assert_close(found.draws, expected.draws)
    assert (found.targets is None) if data is X else torch.equal(found.targets, Y)


def test_a_mapping_is_one_batch() -> None:
    bnet = bp.BayesianNet(Named(), {"fc.weight": bp.Gaussian()})
    bp.classify(bnet, N)
    expected = bp.predict(bnet, [({"x": X}, Y)], draws=2, seed=0)
    assert torch.equal(bp.predict(bnet, {"x": X, "labels": Y}, draws=2, seed=0).mean, expected.mean)
    assert bp.predict(bnet, {"x": X}, draws=2, seed=0).mean.shape == (N, 3)


def test_a_model_stands_for_its_net(bnet: bp.BayesianNet) -> None:
    model = bp.classify(bnet, N)
    assert torch.equal(bp.predict(model, X, draws=2, seed=1).mean, bp.predict(bnet, X, draws=2, seed=1).mean)


def test_report_sweep_and_arviz_take_data_sets(bnet: bp.BayesianNet) -> None:
    masks = bp.masks(bnet, keep=0.5)
    of_set, of_list = (bp.report(bnet, masks, data, draws=2, seed=0) for data in (DATA, DataLoader(DATA, batch_size=N)))
    assert [row.score.nll for row in of_set.models] == pytest.approx([row.score.nll for row in of_list.models])
    curves = [bp.sweep(bnet, data, keep=[0.5], saliencies=[bp.snr]) for data in (DATA, (X, Y))]
    one, other = ([point.score.nll for point in curve.points] for curve in curves)
    assert one == pytest.approx(other)
    assert bp.to_inference_data(bnet, DATA, draws=2).log_likelihood["y"].shape == (1, 2, N)


def test_a_fit_shuffles_a_data_set_and_takes_one_batch(bnet: bp.BayesianNet) -> None:
    steps: list[int] = []

    class Count(bp.Callback):
        def on_start(self, run: bp.Run) -> None:
            steps.append(run.steps)

    model = bp.classify(bnet, 130)
    many = TensorDataset(torch.randn(130, 4), torch.arange(130) % 3)
    bp.fit(model, bnet.guide, many, epochs=2, seed=0, callbacks=[Count()], progress=False)
    bp.fit(bp.classify(bnet, N), bnet.guide, (X, Y), epochs=2, callbacks=[Count()], progress=False)
    assert steps == [2 * 3, 2]
    torch.manual_seed(0)
    loader = batches_of(many, batch_size=64, shuffle=True)
    assert not torch.equal(torch.cat([y for _, y in loader]), many.tensors[1])


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(DATA)


WRONG: dict[str, tuple[Callable[[bp.BayesianNet], Any], type[Exception], str]] = {
    "a net without a posterior": (lambda b: bp.predict(b.net, X), TypeError, "expected a BayesianNet, got Sequential"),
    "a report of a net": (lambda b: bp.report(b.net, {}, DATA), TypeError, "expected a BayesianNet, got Sequential"),
    "a sweep of a net": (lambda b: bp.sweep(b.net, DATA), TypeError, "expected a BayesianNet, got Sequential"),
    "draws of a net": (lambda b: bp.to_inference_data(b.net, DATA), TypeError, "expected a BayesianNet, got Seq"),
    "masks of a net": (lambda b: bp.masks(b.net, keep=0.1), ValueError, "expected a BayesianNet, got Sequential"),
    "a net for data": (lambda b: bp.predict(b, b.net), TypeError, "expected data, got Sequential"),
    "a number for data": (lambda b: bp.predict(b, 3), TypeError, "expected data, got int"),
    "a path for data": (lambda b: bp.predict(b, "x.csv"), TypeError, "expected data, got str"),
    "an array": (lambda b: bp.predict(b, np.zeros((3, 4))), TypeError, r"NumPy array: torch\.as_tensor"),
    "lengths that differ": (lambda b: bp.predict(b, (X, Y[:5])), ValueError, r"as many examples in each.*\[24, 5\]"),
    "tensors that are alike": (lambda b: bp.predict(b, X.split(12)), ValueError, r"\[\(x, y\)\] for one batch"),
    "a stream": (lambda b: bp.predict(b, Stream()), ValueError, r"examples or batches: give DataLoader"),
    "a fit of inputs alone": (
        lambda b: bp.fit(bp.classify(b, N), b.guide, X, epochs=1),
        ValueError,
        r"a batch is \(x, y\)",
    ),
    "a number for a schedule": (
        lambda b: bp.fit(bp.classify(b, N), b.guide, DATA, epochs=1, prune=0.1),  # type: ignore[arg-type]
        TypeError,
        r"prune takes bp\.Cubic\(keep=0\.1\).*got 0\.1",
    ),
    "a glob for rules": (
        lambda b: bp.BayesianNet(b.net, "*.weight"),  # type: ignore[arg-type]
        TypeError,
        r"such as \{'\*\.weight': bp\.SparseVD\(\)\}; got str",
    ),
    "a method for rules": (
        lambda b: bp.BayesianNet(b.net, bp.SparseVD()),  # type: ignore[arg-type]
        TypeError,
        r'such as \{"\*\.weight": SparseVD\(.*\)\}; got SparseVD',
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_data_or_no_posterior_is_a_clear_error(bnet: bp.BayesianNet, what: str) -> None:
    do, kind, words = WRONG[what]
    with pytest.raises(kind, match=words):
        do(bnet)
