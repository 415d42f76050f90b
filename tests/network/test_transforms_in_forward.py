"""A forward that transforms its own layers (jvp, vmap, Hessians, other weights) draws weights, not activations."""

from collections.abc import Callable

import pytest
import torch
from pyro import poutine
from support.passes import draw_and_run, without_gradient
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacfwd, jacrev, jvp, vjp, vmap

import bayesprune as bp


def _tangent(layer: nn.Module, x: Tensor) -> Tensor:
    return jvp(layer, (x,), (torch.ones_like(x),))[1]


def _cotangent(layer: nn.Module, x: Tensor) -> Tensor:
    y, back = vjp(layer, x)
    return back(torch.ones_like(y))[0]


def _dual(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        return torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent


def _substituted(layer: nn.Module, x: Tensor) -> Tensor:
    weights = {name: 2 * w for name, w in layer.named_parameters()}
    return vmap(lambda row: functional_call(layer, weights, (row,)))(torch.ones_like(x))


DERIVATIVES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "jvp": _tangent,
    "vjp": _cotangent,
    "forward mode": _dual,
    "jacrev": lambda layer, x: vmap(jacrev(layer))(x).flatten(1),
    "jacfwd": lambda layer, x: vmap(jacfwd(layer))(x).flatten(1),
    "trace of a Hessian": lambda layer, x: vmap(lambda r: hessian(lambda z: layer(z).square().sum())(r).trace()[None])(
        x
    ),
    "functional_call": _substituted,
}


class Differentiated(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layer = how, nn.Linear(4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return DERIVATIVES[self.how](self.layer, x)


class Ensemble(nn.Module):
    """Members at once, by ``vmap`` over stacked weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return vmap(lambda w: x @ w.T)(self.weight).squeeze(-1).T


def _passes(net: nn.Module, estimator: str, n: int, **how: float) -> tuple[bp.BayesianNet, Tensor]:
    bnet = bp.BayesianNet(net, {"*weight": bp.Gaussian(**how)}, estimator=estimator).train()  # type: ignore[arg-type]
    x = torch.ones(3, 4)
    drawn = [draw_and_run(bnet, x) for _ in range(n)]
    drawn[-1].square().sum().backward()
    return bnet, torch.stack([y.detach() for y in drawn])


@pytest.mark.parametrize("estimator", ["local", "flipout", "weight"])
@pytest.mark.parametrize("how", DERIVATIVES)
def test_all_rows_see_one_draw_of_the_weight(how: str, estimator: str) -> None:
    net = Differentiated(how)
    bnet, drawn = _passes(net, estimator, 4, init_log_scale=0.0)
    assert torch.allclose(drawn[:, 0], drawn[:, 1]) and torch.allclose(drawn[:, 0], drawn[:, 2])
    assert drawn[:, 0].std(0).max() > 0.05  # another weight in each pass
    assert bnet.sampled_locally == ()
    assert without_gradient(bnet) == []


@pytest.mark.parametrize("estimator", ["local", "flipout", "weight"])
def test_an_ensemble_draws_its_stacked_weights(estimator: str) -> None:
    bnet, drawn = _passes(Ensemble(), estimator, 300, init_log_scale=0.0)
    assert torch.allclose(drawn[:, 0], drawn[:, 1])
    assert drawn[:, 0].std(0) == pytest.approx(torch.full((3,), 2.0), abs=0.35)  # √4 entries of sd 1
    assert without_gradient(bnet) == []


@pytest.mark.parametrize("how", DERIVATIVES)
def test_a_narrow_posterior_gives_the_nets_own_derivatives(how: str) -> None:
    net = Differentiated(how)
    _, drawn = _passes(net, "local", 2, init_log_scale=-30.0, clip=(-40.0, 2.0))
    torch.testing.assert_close(drawn[-1], net(torch.ones(3, 4)).detach())
    bnet = bp.BayesianNet(net, {"*weight": bp.Gaussian(init_log_scale=-9.0)}).eval()
    with torch.no_grad():
        torch.testing.assert_close(bnet.run(bnet.draw(), torch.ones(3, 4)), net(torch.ones(3, 4)), rtol=0.02, atol=0.02)


def test_a_transform_around_the_net_is_the_users_own() -> None:
    """Outside, the draw is one for the pass, and derivatives go through it."""
    bnet = bp.BayesianNet(nn.Linear(4, 1, bias=False), {"weight": bp.Gaussian(init_log_scale=0.0)}).train()
    x = torch.ones(3, 4)
    for _ in range(3):
        drawn = poutine.replay(bnet, trace=poutine.trace(bnet.guide).get_trace())
        y, slope = jvp(drawn, (x,), (torch.ones_like(x),))
        torch.testing.assert_close(y, slope)  # x is the direction
    drawn = poutine.replay(bnet, trace=poutine.trace(bnet.guide).get_trace())
    rows = vmap(jacrev(drawn), randomness="same")(x)
    assert torch.allclose(rows[0], rows[1])


class Learner(nn.Module):
    """A step of learning on the first rows within the forward, for the others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        weights = dict(self.layer.named_parameters())
        with torch.enable_grad():
            steps = torch.autograd.grad(self.layer(x[:2]).square().sum(), list(weights.values()), create_graph=True)
        moved = {name: w - 0.1 * step for (name, w), step in zip(weights.items(), steps, strict=True)}
        return functional_call(self.layer, moved, (x[2:],))


def test_a_forward_may_differentiate_by_its_weights_without_gradients_around_it() -> None:
    net = Learner()
    bnet = bp.BayesianNet(net, {"*.weight": bp.Gaussian(init_log_scale=-9.9)})
    bp.regress(bnet, 5)
    x = torch.randn(5, 4)
    predicted = bp.predict(bnet, [(x, torch.zeros(3))], draws=2, seed=0)
    torch.testing.assert_close(predicted.mean, net.eval()(x).detach(), rtol=1e-2, atol=1e-2)
    assert not any(value.requires_grad for value in bnet.draw().values())
