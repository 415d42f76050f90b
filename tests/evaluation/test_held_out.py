"""``bp.elpd``: the log predictive density of held-out data, against its definition; and draws in chains, renamed."""

import math
from typing import Any

import arviz as az
import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.evaluation.held_out import Elpd

X, Y = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3


def new(outputs: int = 3) -> bp.BayesianNet:
    torch.manual_seed(0)
    return bp.BayesianNet(nn.Sequential(nn.Linear(4, outputs)), {"0.weight": bp.Gaussian(init_log_scale=-1.0)})


def test_it_is_the_log_of_the_mean_over_draws() -> None:
    bnet = new()
    bp.classify(bnet)
    found = bp.elpd(bnet, (X, Y), draws=7, seed=0)
    probs = bp.predict(bnet, [(X, Y)], draws=7, seed=0).draws.double()
    truth = probs.mean(0).gather(1, Y[:, None]).log().squeeze(1)
    torch.testing.assert_close(found.pointwise, truth, atol=1e-5, rtol=1e-5)
    assert found.elpd == pytest.approx(float(truth.sum()), rel=1e-5)
    assert found.se == pytest.approx(math.sqrt(30) * float(truth.std()), rel=1e-4)
    assert "over 30 observations" in repr(found)


def test_numbers_have_one_too() -> None:
    bnet = new(1)
    bp.regress(bnet, noise=0.5)
    y = X[:, :1]
    draws = bp.predict(bnet, [(X, y)], draws=6, seed=0).draws.double()
    truth = torch.distributions.Normal(draws, 0.5).log_prob(y.double()).squeeze(-1).logsumexp(0) - math.log(6)
    torch.testing.assert_close(bp.elpd(bnet, (X, y), draws=6, seed=0).pointwise, truth, atol=1e-5, rtol=1e-5)


def test_a_difference_is_paired() -> None:
    one, two = Elpd(torch.tensor([-1.0, -2.0, -4.0])), Elpd(torch.tensor([-1.5, -2.5, -4.5]))
    assert (one - two).elpd == pytest.approx(1.5) and (one - two).se == pytest.approx(0.0)
    with pytest.raises(ValueError, match="got 3 and 2"):
        one - Elpd(torch.zeros(2))


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "no draws": (lambda b: bp.elpd(b, (X, Y), draws=0), ValueError, "draws is an integer ≥ 1, got 0"),
    "no targets": (lambda b: bp.elpd(b, X), ValueError, "no targets"),
    "a net": (lambda b: bp.elpd(b.net, (X, Y)), TypeError, "expected a BayesianNet"),
    "no chains": (lambda b: bp.to_inference_data(b, X, chains=0), ValueError, "chains is an integer ≥ 1, got 0"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_input_is_a_clear_error(what: str) -> None:
    do, kind, words = WRONG[what]
    bnet = new()
    bp.classify(bnet)
    with pytest.raises(kind, match=words):
        do(bnet)


def test_draws_are_dealt_to_chains_and_r_hat_is_a_number() -> None:
    bnet = new()
    bp.classify(bnet)
    one = bp.to_inference_data(bnet, (X, Y), draws=80, seed=0)
    four = bp.to_inference_data(bnet, (X, Y), draws=20, chains=4, seed=0)
    for group, names in {"posterior": ["0.weight"], "posterior_predictive": ["y"], "log_likelihood": ["y"]}.items():
        for name in names:
            flat, dealt = one[group][name].values, four[group][name].values
            assert dealt.shape == (4, 20, *flat.shape[2:])
            assert np.array_equal(dealt.reshape(flat.shape), flat)
    assert four.posterior.coords["chain"].values.tolist() == [0, 1, 2, 3]
    assert four.posterior.attrs == one.posterior.attrs
    ratio = np.asarray(az.rhat(four.posterior)["0.weight"])
    assert np.isfinite(ratio).all() and abs(ratio - 1).max() < 0.2


def test_dots_in_names_give_way_to_what_is_asked_for() -> None:
    bnet = new()
    bp.classify(bnet)
    data = bp.to_inference_data(bnet, (X, Y), draws=4, separator="_")
    assert data.posterior["0_weight"].dims == ("chain", "draw", "0_weight_out", "0_weight_in")
    assert "0_weight_mask" in data.constant_data and not [n for n in data.posterior.variables if "." in str(n)]


def test_two_names_that_become_one_are_an_error() -> None:
    net = nn.ModuleDict({"a_b": nn.Linear(4, 4), "a": nn.ModuleDict({"b": nn.Linear(4, 3)})})

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a_b, self.a = net["a_b"], net["a"]

        def forward(self, x: torch.Tensor) -> Any:
            return self.a["b"](self.a_b(x))

    bnet = bp.BayesianNet(Both(), {"*.weight": bp.Gaussian()})
    bp.classify(bnet)
    with pytest.raises(ValueError, match="makes one name of"):
        bp.to_inference_data(bnet, (X, Y), draws=2, separator="_")
