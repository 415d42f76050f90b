"""The example that each command's help ends with runs as printed, one after another as a new user would paste them.

What is timed or trained long is cut short by one more option.
"""

import re
import shlex
from pathlib import Path

import pytest
from support.command import bayesprune, inside

from bayesprune.cli import app

ORDER = ("init", "fit", "masks", "report", "sweep", "export", "info", "bench")
SHORT = {"bench": ("--budget", "0.05")}


def example(command: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", "200")
    found = re.search(r"Example: bayesprune (.+)", bayesprune(command, "--help").out)
    assert found, f"the help of {command} has no example"
    return shlex.split(found[1])


def test_every_command_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {command.name for command in app.registered_commands} == {*ORDER, "demo"}
    for command in (*ORDER, "demo"):
        assert example(command, monkeypatch)[0] == command


def test_each_runs_after_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with inside(tmp_path):
        for command in ORDER:
            done = bayesprune(*example(command, monkeypatch), *SHORT.get(command, ()))
            assert done.code == 0, (command, done.err)
    assert {"model.safetensors", "masks.safetensors"} <= {file.name for file in (tmp_path / "run").iterdir()}
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_the_demo_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with inside(tmp_path):
        done = bayesprune(*example("demo", monkeypatch), "--epochs", "2")
    assert done.code == 0, done.err
    assert (tmp_path / "demo" / "model.safetensors").is_file()
