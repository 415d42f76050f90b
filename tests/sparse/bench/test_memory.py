"""The memory that packing takes and a packed layer keeps, by the operating system's count, in a process of its own."""

import json
import os
import subprocess
import sys

import pytest
from support.paths import ROOT

SCRIPT = ROOT / "examples/benchmarks/memory.py"
FORMATS = ["BSR(16, 1)", "CSR", "BSR(16, 16, bits=8)", "CSR(bits=8)"]

pytestmark = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="counts as Linux does")


def measured(cache, form, size, sparsity):
    command = [sys.executable, str(SCRIPT), "--json", "--format", form, "--size", str(size), "--sparsity", sparsity]
    env = os.environ | {"BAYESPRUNE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("form", FORMATS)
def test_packing_takes_less_than_the_weight_and_keeps_what_it_stores(tmp_path, form):
    """64 MiB of weights: a copy of them, or the int64 places of a fifth of them, would show."""
    row = measured(tmp_path, form, 4096, "0.8")
    assert row["packing"] <= 1, row
    assert 0.9 < row["kept"] <= 1.15, row
    assert row["module"] <= 1.15, row


def test_an_export_takes_at_most_two_dense_weights(tmp_path):
    """256 MiB of weights: the copy that is masked, and all that is packed and timed beside it."""
    row = measured(tmp_path, "BSR(16, 16)", 8192, "0.95")
    assert row["packing"] <= 0.5 and row["export"] <= 2 and row["module"] <= 1.15, row
