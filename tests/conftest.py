"""Shapes and types in signatures are checked while testing, and free in use; Pyro's store stays empty.

They are in the modules whose signatures have shapes; the rest is left to mypy, as a check at each call takes a third of
the tests' time. ``BAYESPRUNE_CHECK=all`` checks everything.
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from jaxtyping import install_import_hook
from support.paths import ROOT

PACKAGE = ROOT / "bayesprune"
SHAPED = [file for file in PACKAGE.rglob("*.py") if "from jaxtyping" in file.read_text()]
if os.environ.get("BAYESPRUNE_CHECK") == "all":
    SHAPED = [PACKAGE]
modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in SHAPED]
install_import_hook(modules, "support.typechecker.check")
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes and notebooks that tests start: workers share the cores
torch.set_num_threads(1)  # for fixtures of whole files


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How ``pytest -n auto`` deals tests out: a file whose tests share a fixture, or else a test with all its cases.

    Dealt one by one, each process would fit those nets again. A group of pytest-xdist 3.8 has no effect in pytest 9.2.
    """
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByWhatIsShared(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if _shares_a_fixture(config.rootpath / file) else nodeid.partition("[")[0]

    return ByWhatIsShared(config, log)


@cache
def _shares_a_fixture(path: Path) -> bool:
    return 'scope="module"' in path.read_text()


@pytest.fixture(autouse=True)
def on_one_thread_with_an_empty_store() -> Iterator[None]:
    """Nothing may leave a trace in Pyro's global store. Commands set threads for their process, which is this one."""
    pyro.clear_param_store()
    torch.set_num_threads(1)  # the tensors are small: more threads wait for each other
    torch.manual_seed(0)
    yield
    assert len(pyro.get_param_store()) == 0
