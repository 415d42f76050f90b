"""Every method finds the 8 relevant inputs of 64, as the benchmark poses them."""

import functools
import json
import runpy
import subprocess
import sys

import pytest
from support.paths import ROOT

BENCHMARK = ROOT / "examples" / "benchmarks" / "relevant_inputs.py"
RANK = """
import json, runpy, sys, torch
torch.set_num_threads(1)
benchmark = runpy.run_path(sys.argv[1])
ranked = {name: benchmark["ranking"](method, int(sys.argv[2]), 150) for name, method in benchmark["METHODS"].items()}
print(json.dumps({name: [t.tolist() for t in pair] for name, pair in ranked.items()}))
"""


@functools.cache
def rankings(seed: int) -> dict[str, list[list[float]]]:
    """Method → signal-to-noise ratios and relevances; in a process that checks no types, at a third of the time."""
    command = [sys.executable, "-c", RANK, str(BENCHMARK), str(seed)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", runpy.run_path(str(BENCHMARK))["METHODS"])
def test_the_largest_signal_to_noise_ratios_are_those_of_the_relevant_inputs(name: str, seed: int) -> None:
    snr, relevant = rankings(seed)[name]
    assert len(snr) == len(relevant) == 64
    assert sum(relevant) == 8
    largest = sorted(range(64), key=lambda i: -snr[i])[:8]
    assert all(relevant[i] for i in largest)
