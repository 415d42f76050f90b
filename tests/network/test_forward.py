"""``bnet(x)`` outside Pyro: on the posterior means in eval mode, on a posterior draw in training mode."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor, nn

import bayesprune as bp

X = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))


def new(log_scale: float = -1.0, **kwargs: Any) -> bp.BayesianNet:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    return bp.BayesianNet(net, {"*.weight": bp.Gaussian(prior=5.0, init_log_scale=log_scale)}, **kwargs)


def test_in_eval_mode_it_is_the_net_on_the_posterior_means() -> None:
    bnet = new().eval()
    bnet.posteriors["0.weight"].loc.data.add_(0.1)  # as a fit moves it: the net beneath stays as it was
    expected = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    expected.load_state_dict(bnet.means())
    for _ in range(2):
        torch.testing.assert_close(bnet(X), expected(X))
    bnet.prune({"0.weight": torch.zeros(4, 5, dtype=torch.bool)})
    torch.testing.assert_close(bnet(X), expected[2](expected[0].bias.tanh().expand(7, -1)))


def test_after_a_fit_it_errs_no_more_than_the_predictive() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 5)
    y = (x[:, 0] > 0).long()
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(5, 2)), {"0.weight": bp.Gaussian(prior=5.0)})
    bp.fit(bp.classify(bnet), (x, y), epochs=150, lr=0.05, warmup=0, seed=0, progress=False)
    wrong = float((bnet.eval()(x).argmax(-1) != y).float().mean())
    assert wrong < 0.05
    assert float((bnet.train()(x).argmax(-1) != y).float().mean()) < 0.2


@pytest.mark.parametrize("estimator", ["local", "weight", "flipout"])
def test_in_training_mode_it_is_a_draw_from_the_posterior(estimator: Any) -> None:
    bnet = new(estimator=estimator).train()
    with torch.no_grad():
        x = X[:1]
        drawn = torch.stack([bnet(x) for _ in range(200)])
        truth = torch.stack([bnet.run(bnet.draw(), x) for _ in range(200)])
    for moment in (torch.mean, torch.std):
        assert float((moment(drawn, 0) - moment(truth, 0)).abs().max()) < 0.4
    assert float((drawn.std(0) / truth.std(0)).log().abs().max()) < 0.25  # the prior's sd is ten times as large
    narrow = new(-8.0, estimator=estimator).train()
    torch.testing.assert_close(narrow(X), narrow.net(X), atol=0.05, rtol=0)


@pytest.mark.parametrize("estimator", ["local", "weight", "flipout"])
def test_gradients_reach_the_posterior_through_a_draw(estimator: Any) -> None:
    bnet = new(estimator=estimator).train()
    for _ in range(2):  # the first pass counts uses
        bnet.zero_grad()
        bnet(X).square().sum().backward()
    posterior = bnet.posteriors["0.weight"]
    assert all(float(p.grad.abs().sum()) > 0 for p in (posterior.loc, posterior.log_scale))
    assert all(p.grad is None for p in bnet.net.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_prior_has_a_door_of_its_own(training: bool) -> None:
    bnet = new(-8.0).train(training)
    with torch.no_grad():
        drawn = torch.stack([bnet.prior(X[:1]) for _ in range(150)])
        assert float(drawn.std(0).min()) > 3  # entries have sd 5, hidden units up to 1
        assert float((bnet(X[:1]) - bnet.net(X[:1])).abs().max()) < 0.1


@pytest.mark.parametrize("training", [True, False])
def test_under_pyros_handlers_it_is_the_models_half_as_before(training: bool) -> None:
    bnet = new(-8.0).train(training)

    def model(x: Tensor) -> Tensor:
        out = bnet(x)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(out, 1.0).to_event(1))
        return out

    trace = poutine.trace(bnet).get_trace(X)
    assert [n for n, s in trace.nodes.items() if s["type"] == "sample"] == ["0.weight", "2.weight"]
    assert float(trace.nodes["0.weight"]["value"].std()) > 2  # of the prior
    fixed = {"0.weight": torch.zeros(4, 5), "2.weight": torch.zeros(3, 4)}
    with torch.no_grad():
        conditioned = poutine.condition(bnet, data=fixed)(X)
        torch.testing.assert_close(conditioned, bnet.net[2].bias.expand(7, -1))
        with poutine.block():  # any handler will do
            assert float((bnet(X) - bnet.net(X)).abs().max()) > 1
    torch.manual_seed(0)
    of_prior = Predictive(model, num_samples=50, return_sites=("_RETURN",))(X)["_RETURN"]
    of_posterior = Predictive(model, guide=bnet.guide, num_samples=50, return_sites=("_RETURN",))(X)["_RETURN"]
    assert float(of_prior.std(0).min()) > 2 and float(of_posterior.std(0).max()) < 0.1
