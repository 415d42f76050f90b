"""The tests in ``interpreted``, and those of ``test_on_gpu.py`` that can, run in Triton's interpreter, on a CPU.

That is settled when kernels are imported: they have a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

pytest.importorskip("triton")


def test_the_kernels_hold_in_tritons_interpreter(tmp_path: Path) -> None:
    folder = Path(__file__).parent / "interpreted"
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(folder),
        str(folder.parent / "test_on_gpu.py"),
        "-q",
        "-W",
        "ignore::RuntimeWarning",
        "-k",  # on a CPU the first is tests/sparse/kernels/test_ops.py's, and the second moves nothing
        "not test_compiled and not test_an_exported_net_moves_between_devices",
        "-o",
        f"cache_dir={tmp_path}",
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    print(done.stdout[-600:])
