"""A loop of one's own: ``bp.ELBO`` with the KL's warm-up, ``bnet.parameter_groups`` with the rates of ``bp.fit``."""

import math
import re
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from support.paths import ROOT
from torch import Tensor, nn
from torch.utils.data import DataLoader

import bayesprune as bp
from bayesprune import data, nets

SNIPPET = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[2]


def wrong(bnet: bp.BayesianNet, test: Any) -> float:
    bp.classify(bnet)
    found = bp.predict(bnet, test, draws=5, seed=0)
    return float((found.mean.argmax(-1) != found.targets).double().mean())


def test_the_snippet_fits_as_well_as_fit() -> None:
    torch.manual_seed(0)
    world: dict[str, Any] = {}
    exec(compile(SNIPPET.replace(", 40\n", ", 20\n"), "snippet", "exec"), world)
    splits = data.digits()
    torch.manual_seed(0)
    ours = bp.BayesianNet(nets.lenet_300_100(inputs=64), {"fc*.weight": bp.SparseVD()})
    train = DataLoader(splits.train, batch_size=64, shuffle=True)
    bp.fit(bp.classify(ours), train, epochs=20, lr=6e-3, seed=0, progress=False)
    errors = wrong(world["bnet"], splits.test), wrong(ours, splits.test)
    assert max(errors) < 0.1 and abs(errors[0] - errors[1]) < 0.03, errors
    assert world["elbo"].bound.kl_weight == 1.0


X, Y = torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3


def new() -> bp.BayesianNet:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return bp.BayesianNet(net, {"0.weight": bp.SparseVD(), "2.weight": bp.Gaussian()})


def test_a_loop_over_it_takes_the_steps_of_a_fit() -> None:
    """To the last bit: loss, warm-up, groups and rates are the same ones."""
    own, fitted = new(), new()
    epochs, lr = 5, 0.01
    elbo = bp.ELBO(bp.classify(own, 32), warmup=2 * epochs * 0.4)
    optimizer = torch.optim.Adam(own.parameter_groups(lr), fused=True)
    torch.manual_seed(3)
    for _ in range(epochs):
        for x, y in zip(X.split(16), Y.split(16), strict=True):
            optimizer.zero_grad()
            elbo(x, y).backward()
            optimizer.step()
    batches = list(zip(X.split(16), Y.split(16), strict=True))
    bp.fit(bp.classify(fitted, 32), batches, epochs=epochs, lr=lr, seed=3, decay=lambda p: 1.0, progress=False)
    assert all(torch.equal(value, fitted.means()[name]) for name, value in own.means().items())
    assert all(torch.equal(value, fitted.variances()[name]) for name, value in own.variances().items())


def test_the_groups_have_the_rates_of_the_posteriors() -> None:
    bnet = new()
    groups = bnet.parameter_groups(0.01)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates.keys() == {id(p) for p in bnet.parameters()}
    for posterior in bnet.posteriors.values():
        for leaf, parameter in posterior.named_parameters():
            assert rates[id(parameter)] == pytest.approx(0.01 * posterior.lr_multipliers.get(leaf, 1.0))
    assert len({group["lr"] for group in groups}) == len(groups) > 1
    with pytest.raises(ValueError, match="nothing to fit"):
        bnet.requires_grad_(False).parameter_groups(0.01)


def test_the_loss_is_pyros_bound_per_example() -> None:
    bnet = new()
    model = bp.classify(bnet, 96)
    bnet(X)  # the first pass in training counts uses
    elbo = bp.ELBO(model, warmup=0)
    assert {id(p) for p in elbo.parameters()} == {id(p) for p in bnet.parameters()}
    torch.manual_seed(1)
    ours = float(elbo(X, Y).detach())
    assert ours == pytest.approx((float(elbo.bound.nll) + float(elbo.bound.kl)) / 96, rel=1e-5)
    with torch.no_grad():  # one draw is one weight: both draw alike
        torch.manual_seed(1)
        still = float(elbo(X, Y))
        torch.manual_seed(1)
        assert still == pytest.approx(TraceMeanField_ELBO().loss(model, bnet.guide, X, Y) / 96, rel=1e-4)


def test_the_kl_comes_in_with_the_steps_that_have_gradients() -> None:
    elbo = bp.ELBO(bp.classify(new(), 32), warmup=4)
    seen = []
    for _ in range(6):
        elbo(X, Y)
        seen.append(elbo.bound.kl_weight)
        with torch.no_grad():
            elbo(X, Y)
    assert seen == [1e-3, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_pyros_svi_takes_the_same_warm_up() -> None:
    bnet = new()
    elbo = bp.ELBO(bp.classify(bnet, 32), warmup=10)
    svi = SVI(elbo.model, elbo.guide, pyro.optim.Adam({"lr": 0.01}), loss=elbo.bound)
    losses = [svi.step(X, Y) for _ in range(12)]
    assert all(math.isfinite(loss) for loss in losses)
    assert elbo.bound.step == 12 and elbo.bound.kl_weight == 1.0


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "a warm-up below 0": (lambda: bp.ELBO(bp.classify(new(), 3), warmup=-1), ValueError, "warmup.*steps ≥ 0, got -1"),
    "a warm-up of NaN": (lambda: bp.ELBO(bp.classify(new(), 3), warmup=math.nan), ValueError, "warmup.*got nan"),
    "a size of 0": (lambda: bp.ELBO(bp.classify(new()), warmup=1, size=0), ValueError, "size.*≥ 1, got 0"),
    "no posterior": (lambda: bp.ELBO(nn.Linear(2, 2), warmup=1), ValueError, "no BayesianNet in Linear"),
    "no guide": (lambda: bp.ELBO(lambda x: x, warmup=1), ValueError, r"needs its guide, bnet\.guide"),
    "no size": (lambda: bp.ELBO(bp.classify(new()), warmup=1)(X, Y), ValueError, "size.*is not known"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_a_loss_is_a_clear_error(what: str) -> None:
    do, kind, words = WRONG[what]
    with pytest.raises(kind, match=words):
        do()


def test_a_function_of_ones_own_has_its_nets_parameters() -> None:
    bnet = new()
    inner = bp.classify(bnet, 32)

    def model(x: Tensor, y: Tensor | None = None) -> None:
        inner(x, y)

    elbo = bp.ELBO(model, bnet.guide, warmup=0)
    assert {id(p) for p in elbo.parameters()} == {id(p) for p in bnet.parameters()}
    assert elbo(X, Y) > 32  # nothing says the size: of the whole data set
