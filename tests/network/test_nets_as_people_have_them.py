"""Nets that differentiate in their forward, reassign buffers, are partly frozen, or cannot be run on other values."""

import warnings
from collections.abc import Callable

import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.network.rules import FrozenWarning

# --- a forward that differentiates ------------------------------------------------------------------------------------


class Force(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.energy = nn.Linear(4, 1) if how != "conv" else nn.Conv1d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            e = self.energy(x[..., None] if self.how == "conv" else x).sum()
            if self.how == "backward":
                e.backward(create_graph=True)
                assert x.grad is not None
                return x.grad
            (slope,) = torch.autograd.grad(e, x, create_graph=self.how != "plain")
            return slope


@pytest.mark.parametrize("how", ["create_graph", "plain", "conv", "backward"])
@pytest.mark.filterwarnings("ignore:Using backward")
def test_the_slope_of_an_energy_is_a_draw_of_the_weight(how: str) -> None:
    """dE/dx = w ~ N(m, 1): the slope of a sampled activation would have another spread, and one for each row."""
    torch.manual_seed(0)
    bnet = bp.BayesianNet(Force(how), {"energy.weight": bp.Gaussian(init_log_scale=0.0)}).train()
    x, slopes = torch.randn(3, 4), []
    for _ in range(400):
        slope = poutine.replay(bnet, trace=poutine.trace(bnet.guide).get_trace())(x).detach()
        slopes.append(slope)
    drawn = torch.stack(slopes[1:])
    assert torch.equal(drawn[:, 0], drawn[:, 1])  # one weight for all rows
    assert drawn.std(0) == pytest.approx(torch.ones(3, 4), abs=0.15)  # 4 standard errors of 399 draws
    assert bnet.sampled_locally == ()


def test_a_forward_that_does_not_differentiate_still_samples_activations() -> None:
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(4, 1)), {"0.weight": bp.Gaussian()}).train()
    for _ in range(2):
        out = poutine.replay(bnet, trace=poutine.trace(bnet.guide).get_trace())(torch.randn(3, 4))
        out.sum().backward()
    assert bnet.sampled_locally == ("0.weight",)


# --- buffers that a forward reassigns ---------------------------------------------------------------------------------


class Counting(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.fc = how, nn.Linear(4, 2)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("centre", torch.zeros(4), persistent=how != "not persistent")

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            if self.how == "in place":
                self.steps += 1
            else:
                self.steps = self.steps + 1
            self.centre = 0.5 * self.centre + 0.5 * x.mean(0)
        return self.fc(x - self.centre)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Counting("reassigned")

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


BUFFERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "reassigned": (lambda: Counting("reassigned"), ""),
    "in place": (lambda: Counting("in place"), ""),
    "not persistent": (lambda: Counting("not persistent"), ""),
    "in a submodule": (Inner, "inner."),
}


@pytest.mark.parametrize("estimator", ["local", "weight"])
@pytest.mark.parametrize("kind", BUFFERS)
def test_a_buffer_moves_on_in_the_copy_and_not_in_the_users_net(kind: str, estimator: str) -> None:
    make, path = BUFFERS[kind]
    x, y = torch.randn(16, 4) + 3, torch.zeros(16, dtype=torch.long)
    net, other = make(), make()
    bnet = bp.BayesianNet(net, {f"{path}fc.weight": bp.SparseVD()}, estimator=estimator)  # type: ignore[arg-type]
    bp.fit(bp.classify(bnet, 16), bnet.guide, [(x, y)], epochs=5, seed=0, progress=False)
    other.train()
    for _ in range(5):
        other(x)
    means = bnet.means()
    assert means[f"{path}steps"] == 5
    assert torch.allclose(means[f"{path}centre"], other.get_buffer(f"{path}centre"))
    assert not means[f"{path}centre"].requires_grad
    assert net.get_buffer(f"{path}steps") == 0
    before = means[f"{path}centre"].clone()
    bp.predict(bnet, [x + 9], draws=2, seed=0)
    assert torch.equal(bnet.means()[f"{path}centre"], before)


# --- frozen parameters ------------------------------------------------------------------------------------------------


def frozen() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    net[0].requires_grad_(False)
    return net


@pytest.mark.parametrize("glob", ["*.weight", "*", "[02].weight"])
def test_what_a_glob_matches_and_the_user_froze_stays_and_is_named(glob: str) -> None:
    net = frozen()
    with pytest.warns(FrozenWarning, match=r"0\.weight"):
        bnet = bp.BayesianNet(net, {glob: bp.SparseVD()})
    assert "0.weight" not in bnet.posteriors
    assert "2.weight" in bnet.posteriors
    x, y = torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
    bp.fit(bp.classify(bnet, 8), bnet.guide, [(x, y)], epochs=3, lr=0.1, seed=0, progress=False)
    assert torch.equal(bnet.means()["0.weight"], net[0].weight)
    assert torch.equal(bnet.means()["0.bias"], net[0].bias)


def test_a_frozen_weight_that_is_named_exactly_gets_a_posterior() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FrozenWarning)
        bnet = bp.BayesianNet(frozen(), {"0.weight": bp.SparseVD()})
    assert list(bnet.posteriors) == ["0.weight"]


# --- what cannot be run on other values -------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "scripted": (torch.jit.script, "not what TorchScript made of it"),
    "traced": (lambda net: torch.jit.trace(net, torch.randn(2, 4)), "not what TorchScript made of it"),
    "DataParallel": (nn.DataParallel, "not DataParallel around it: give net.module"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_cannot_be_run_on_other_values_is_refused_at_the_door(kind: str) -> None:
    wrap, words = REFUSED[kind]
    with pytest.raises(TypeError, match=f"net must be the nn.Module itself, {words}"):
        bp.BayesianNet(wrap(nn.Sequential(nn.Linear(4, 3))), {"*.weight": bp.SparseVD()})
