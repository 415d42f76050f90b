"""The epistemic and aleatoric parts tell the truth where it is known."""

import math
import os
import re
import runpy
import sys

import pytest
import torch
from support.paths import ROOT
from torch import Tensor, nn

import bayesprune as bp


class Coin(nn.Module):
    """Logits (0, w·x): with x = 1, a coin whose log odds are w."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z = self.fc(x)
        return torch.cat([torch.zeros_like(z), z], -1)


def test_a_line_with_known_noise() -> None:
    """The noise is the aleatoric part, and the epistemic part is the slope's posterior variance times x²."""
    n, noise = 200, 0.3
    x = torch.linspace(-1, 1, n)[:, None]
    y = 1.5 * x + noise * torch.randn(n, 1)
    bnet = bp.BayesianNet(nn.Linear(1, 1, bias=False), {"weight": bp.Gaussian(prior=10.0)})
    bp.fit(bp.regress(bnet, n), bnet.guide, [(x, y)], epochs=500, lr=2e-2, warmup=0, seed=0, progress=False)
    found = bp.predict(bnet, [x], draws=1500, seed=1)
    least = float((y - x * (x * y).sum() / x.square().sum()).square().mean())
    assert least == pytest.approx(noise**2, rel=0.25)
    assert float(found.aleatoric.mean()) == pytest.approx(least, rel=0.05)
    exact = least / float(x.square().sum()) * x.square()  # conjugate, but for a prior that is 30 times as wide
    torch.testing.assert_close(found.epistemic, exact, rtol=0.3, atol=0)


@pytest.mark.parametrize("n", [40, 400])
def test_a_coin_with_known_odds(n: int) -> None:
    """The aleatoric part is the coin's entropy; the epistemic part is 1 / 2n: ½ p(1 − p) times the posterior variance
    of the log odds, 1 / (n p(1 − p)), to the order of 1 / n."""
    heads = n // 4
    y = (torch.arange(n) < heads).long()
    bnet = bp.BayesianNet(Coin(), {"fc.weight": bp.Gaussian(prior=10.0)})
    ones = torch.ones(n, 1)
    bp.fit(bp.classify(bnet, n), bnet.guide, [(ones, y)], epochs=400, lr=3e-2, warmup=0, seed=0, progress=False)
    found = bp.predict(bnet, [ones[:1]], draws=1500, seed=1)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert float(found.epistemic) == pytest.approx(1 / (2 * n), rel=0.3)
    assert float(found.epistemic + found.aleatoric) == pytest.approx(entropy, abs=1.5 / n)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("BAYESPRUNE_DATA"), reason="BAYESPRUNE_DATA names no folder with the real data")
def test_a_net_of_digits_is_less_sure_of_photographs(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    example = ROOT / "examples" / "ood_mnist_cifar.py"
    monkeypatch.setattr(sys, "argv", [str(example), "--images", "2000"])
    runpy.run_path(str(example), run_name="__main__")
    found = re.search(r"epistemic entropy: (0\.\d+)$", capsys.readouterr().out, re.MULTILINE)
    assert found is not None and float(found[1]) > 0.85
