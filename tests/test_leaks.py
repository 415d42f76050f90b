"""What is done again and again takes no more memory than what is done a few times."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.elsewhere import environment
from support.paths import ROOT

pytestmark = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="counts as Linux does")

MOST = 4 * 2**20  # bytes; 2,000 leaks of 2 KB are as many
WHAT = {"steps": 2_000, "exports": 200, "plans": 250}


def grown(cache: Path, what: str, times: int) -> int:
    command = [sys.executable, str(ROOT / "tests/support/leaks.py"), what, str(times)]
    env = environment(BAYESPRUNE_CACHE=str(cache), OMP_NUM_THREADS="1", MALLOC_ARENA_MAX="1")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


@pytest.mark.parametrize("what", WHAT)
def test_a_few(tmp_path: Path, what: str) -> None:
    assert grown(tmp_path, what, WHAT[what] // 10) < MOST


@pytest.mark.slow
@pytest.mark.parametrize("what", WHAT)
def test_many(tmp_path: Path, what: str) -> None:
    assert grown(tmp_path, what, WHAT[what]) < MOST
