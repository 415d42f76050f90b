"""The examples that no record stands on run, and show what they say."""

import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from support.paths import ROOT

import bayesprune as bp
from bayesprune.methods.weight import Weight
from bayesprune.patterns import Block

EXAMPLES = ROOT / "examples"


def test_a_users_own_method_trains_prunes_and_exports(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["own_method.py", "--epochs", "2"])
    found = runpy.run_path(str(EXAMPLES / "own_method.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert "10% kept" in out
    assert "posterior mean, pruned" in out
    posterior = found["StudentT"](Block(2, 1)).posterior(Weight("w", torch.ones(4, 3), Block(2, 1)))
    mean, var = posterior.moments()
    assert torch.equal(mean, torch.ones(4, 3))
    assert mean.shape == var.shape == posterior.prior().shape


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("BAYESPRUNE_DATA"), reason="needs BAYESPRUNE_DATA with mnist/")
def test_a_lenet_is_compressed_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    args = ["compress_lenets.py", "--nets", "lenet300", "--epochs", "2", "--out", str(tmp_path)]
    for _ in range(2):  # the second time from the fit that was kept
        monkeypatch.setattr(sys, "argv", args)
        runpy.run_path(str(EXAMPLES / "compress_lenets.py"), run_name="__main__")
    first, second = capsys.readouterr().out.split("lenet300: ")[1:]
    assert first.splitlines()[1:] == second.splitlines()[1:] and "(99.00% gone)" in first
    assert (tmp_path / "lenet300.bp").stat().st_size < 8000
    assert bp.load(tmp_path / "lenet300.bp")(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
