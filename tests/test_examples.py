"""The examples that no record stands on run, and show what they say."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from bayesprune.patterns import Block
from bayesprune.weight import Weight

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_a_users_own_method_trains_prunes_and_exports(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["own_method.py", "--epochs", "2"])
    found = runpy.run_path(str(EXAMPLES / "own_method.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert "10% kept" in out
    assert "posterior mean, pruned" in out
    posterior = found["StudentT"](Block(2, 1)).over(Weight("w", torch.ones(4, 3), Block(2, 1)))
    mean, var = posterior.moments()
    assert torch.equal(mean, torch.ones(4, 3))
    assert mean.shape == var.shape == posterior.prior().shape
