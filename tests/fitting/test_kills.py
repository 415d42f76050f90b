"""A fit that is killed at any moment goes on from its last checkpoint or the one before, and ends bit for bit."""

import json
import os
import subprocess
import sys

import pytest
from support.elsewhere import environment
from support.paths import ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def killed(kills: int, seed: int) -> dict[str, int]:
    command = [sys.executable, str(ROOT / "tests/support/kills.py"), str(kills), str(seed)]
    env = environment(OMP_NUM_THREADS="1")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert not found["wrong"], (found, done.stderr[-2000:])
    return found["counts"]


def test_a_few_kills() -> None:
    counts = killed(12, seed=0)
    assert sum(counts.values()) - counts["runs"] >= 12


@pytest.mark.slow
def test_three_hundred_kills_within_and_between_saves() -> None:
    counts = killed(300, seed=1)
    within = sum(counts.get(how, 0) for how in ("fsync", "rename", "open", "remove"))
    assert within >= 100 and counts["timer"] >= 60, counts
