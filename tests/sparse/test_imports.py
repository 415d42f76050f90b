"""The sparse half needs no Pyro, and brings in nothing that draws, plots or learns."""

import subprocess
import sys

import pytest

UNWANTED = "pyro", "matplotlib", "arviz", "sklearn", "numba", "pandas", "triton"


@pytest.mark.parametrize("module", ["bayesprune.sparse", "bayesprune.sparse.compact"])
def test_import_is_lean(module):
    code = f"import sys, {module}; print([m for m in {UNWANTED!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_import_says_nothing():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import bayesprune.sparse"], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
