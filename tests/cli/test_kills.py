"""A command that is killed while it writes leaves its folder so that the same command works, and ends the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.elsewhere import environment
from support.paths import ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def killed(cache: Path, every: int) -> dict[str, int]:
    command = [sys.executable, str(ROOT / "tests/support/killed_commands.py"), str(every)]
    env = environment(BAYESPRUNE_CACHE=str(cache), OMP_NUM_THREADS="1")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert not found["wrong"], found
    return found["counts"]


def test_some_moments(tmp_path: Path) -> None:
    assert killed(tmp_path, 70)["fit"] >= 1


@pytest.mark.slow
def test_every_moment(tmp_path: Path) -> None:
    counts = killed(tmp_path, 1)
    assert counts["fit"] > 30 and min(counts[command] for command in ("masks", "report", "export")) >= 3, counts
