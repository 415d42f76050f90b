"""The tests of the GPU part, in a process of their own."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from on_gpu.results import Results

__all__ = ["TESTS", "counted", "run"]

_ROOT = Path(__file__).parents[3]
TESTS = _ROOT / "tests" / "sparse" / "gpu"
_ELSEWHERE = (
    "test_benchmark.py",
    "test_compiled.py",
    "test_compiled_gradients.py",
    "test_interpreted.py",
    "interpreted",
)  # need no GPU
_WORDS = {"failure": "failed", "error": "errors", "skipped": "skipped"}


def counted(report: Path) -> dict[str, Any]:
    """What a JUnit report of pytest tells: how many passed and did not, which failed, why some were skipped."""
    told: dict[str, Any] = dict.fromkeys(("passed", *_WORDS.values()), 0) | {"not_passed": []}
    reasons = set()
    for case in ElementTree.parse(report).iter("testcase"):
        found = next((part for part in case if part.tag in _WORDS), None)
        told["passed" if found is None else _WORDS[found.tag]] += 1
        if found is not None and found.tag == "skipped":
            reasons.add(str(found.get("message")))
        elif found is not None:
            told["not_passed"].append(f"{case.get('classname')}::{case.get('name')}")
    return {**told, "skipped_because": sorted(reasons)}


def run(results: Results, until: float) -> None:
    """Once a file; a rehearsal only collects them. Of the folders above, no ``conftest.py`` is read: it needs Pyro."""
    if results.data["tests"]:
        return
    rehearsal = results.data["rehearsal"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", str(TESTS), "-q", "--tb=short", f"--confcutdir={TESTS}"]
        command += [
            *(f"--ignore={TESTS / name}" for name in _ELSEWHERE),
            f"--junitxml={report}",
            "-p",
            "no:cacheprovider",
        ]
        command += ["--collect-only"] if rehearsal else []
        paths = [str(_ROOT), str(_ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        own = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "BAYESPRUNE_CACHE": folder}
        kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        seconds = max(10.0, until - time.monotonic())
        try:
            done = subprocess.run(command, cwd=_ROOT, env=kept | own, capture_output=True, text=True, timeout=seconds)
            ended: dict[str, Any] = {"exit": done.returncode, "tail": done.stdout.splitlines()[-40:]}
        except subprocess.TimeoutExpired as error:
            out = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
            ended = {"exit": None, "tail": [*out.splitlines()[-40:], f"stopped after {seconds:.0f} s"]}
        counts = counted(report) if report.exists() and not rehearsal else {}
    results.add("tests", {"command": f"pytest tests/sparse/gpu, but for {', '.join(_ELSEWHERE)}", **counts, **ended})
    results.save()
