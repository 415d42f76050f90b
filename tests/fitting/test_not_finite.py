"""A gradient that is not finite while the loss is: no step is taken on it, and none is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp

X, Y = torch.randn(32, 6, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3


class Root(nn.Module):
    """A square root whose argument can be exactly 0, where the value is finite and the slope is not."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.gain = nn.Linear(6, 3), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + (self.gain.abs() * x[:, :1].clamp_min(0)).sqrt()


def net(seed: int = 0) -> bp.BayesianNet:
    torch.manual_seed(seed)
    return bp.BayesianNet(Root(), {"fc.weight": bp.SparseVD()})


def batches(zero_at: int | None) -> list[tuple[Tensor, Tensor]]:
    parts = [(x.abs() + 0.1, y) for x, y in zip(X.split(8), Y.split(8), strict=True)]
    if zero_at is not None:
        parts[zero_at][0][0, 0] = 0.0
    return parts


def fit(bnet: bp.BayesianNet, loader: Any, **kwargs: Any) -> bp.History:
    return bp.fit(
        bp.classify(bnet, 32), bnet.guide, loader, **{"epochs": 2, "lr": 0.01, "seed": 0, "progress": False, **kwargs}
    )


class Steps(bp.Callback):
    def __init__(self) -> None:
        self.last: dict[str, Tensor] = {}
        self.count = 0

    def on_step(self, run: bp.Run) -> None:
        self.count = run.step
        self.last = {name: p.detach().clone() for name, p in run.bnet.named_parameters()}


@pytest.mark.parametrize("at", [0, 2, 3])
def test_a_nan_gradient_is_named_and_not_stepped_on(at: int) -> None:
    bnet, steps = net(), Steps()
    with pytest.raises(FloatingPointError, match=rf"gradient of .*gain.* in epoch 1, batch {at}, .*step {at + 1}$"):
        fit(bnet, batches(at), callbacks=[steps])
    assert steps.count == at
    now = dict(bnet.named_parameters())
    assert all(bool(p.isfinite().all()) for p in now.values())
    assert all(torch.equal(now[name], value) for name, value in steps.last.items())


def test_the_last_good_checkpoint_stands_and_a_mended_run_goes_on_from_it(tmp_path: Path) -> None:
    class Spoil(bp.Callback):
        """The last gradient of the second epoch."""

        def on_step(self, run: bp.Run) -> None:
            if run.step == 7:
                loader[3][0][0, 0] = 0.0

    loader = batches(None)
    with pytest.raises(FloatingPointError, match="gain"):
        fit(net(), loader, callbacks=[Spoil()], checkpoint=tmp_path / "run")
    loader = batches(None)
    mended, whole, steps = net(1), net(), Steps()
    history = fit(mended, loader, checkpoint=tmp_path / "run", callbacks=[steps])
    assert fit(whole, loader).nll == history.nll
    assert all(torch.equal(a, b) for a, b in zip(mended.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_parameter_that_a_step_spoils_is_named_and_not_saved(tmp_path: Path, value: float) -> None:
    class Spoil(bp.Callback):
        def on_epoch(self, run: bp.Run) -> None:
            if run.step == 8:
                with torch.no_grad():
                    run.bnet.posteriors["fc.weight"].get_parameter("loc")[0, 0] = value

    with pytest.raises(FloatingPointError, match=r"fc\.weight\.loc' is not finite after epoch 2"):
        fit(net(), batches(None), callbacks=[Spoil()], checkpoint=tmp_path / "run")
    again = net()
    assert fit(again, batches(None), checkpoint=tmp_path / "run").nll == fit(net(), batches(None)).nll
    assert all(bool(p.isfinite().all()) for p in again.parameters())


def test_gradients_whose_norm_overflows_but_which_are_finite_are_fine() -> None:
    bnet = net()

    class Huge(bp.Callback):
        seen = False

        def on_gradient(self, run: bp.Run) -> None:
            self.seen = True

    def tiny_steps(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        bnet.get_parameter("_rest.gain").register_hook(lambda g: torch.full_like(g, 3e38))
        bnet.get_parameter("_rest.fc.bias").register_hook(lambda g: torch.full_like(g, 3e38))
        return torch.optim.SGD([{**group, "lr": 1e-40} for group in groups])

    huge = Huge()
    fit(bnet, batches(None), optimizer=tiny_steps, callbacks=[huge])
    assert huge.seen
