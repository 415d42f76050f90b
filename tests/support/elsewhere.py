"""Functions of a test file called in another process, which checks no types and has an environment of its own."""

import importlib
import json
import os
import subprocess
import sys
import traceback
from typing import Any, Self

import torch

from support.paths import ROOT

__all__ = ["Elsewhere", "environment"]


def environment(**more: str) -> dict[str, str]:
    """This process's, in which bayesprune and the test files can be imported: ``methods.test_numerics``."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))), **more}


class Elsewhere:
    """Calls functions of ``module`` there, with arguments and results that JSON can hold; a context that ends it.

    What was answered once is remembered. ``more`` goes into the process's environment.
    """

    def __init__(self, module: str, **more: str) -> None:
        command = [sys.executable, "-m", "support.elsewhere", module]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment(**more), **pipes)
        self.known: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.__exit__(None, None, None)

    def __call__(self, function: str, *args: Any) -> Any:
        request = json.dumps([function, args])
        if request not in self.known:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            print(request, file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
            assert answer, "the other process died; what it said last is in the captured stderr"
            self.known[request] = json.loads(answer)
        found, wrong = self.known[request]
        assert wrong is None, wrong
        return found


def _serve(name: str) -> None:
    torch.set_num_threads(1)
    module = importlib.import_module(name)
    for line in sys.stdin:
        function, args = json.loads(line)
        try:
            answer = getattr(module, function)(*args), None
        except Exception:
            answer = None, traceback.format_exc()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
