"""What docs/cli.md and examples/mnist_cli.sh show runs as it stands there; epochs are cut short for the docs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import bayesprune, inside
from support.paths import ROOT

SHOWN = re.findall(
    r"```console\n\$ bayesprune (.*?)(?<!\\)\n(.*?)```", (ROOT / "docs" / "cli.md").read_text(), re.DOTALL
)
COMMANDS = [
    re.sub(r"(--(?:epochs|pretrain)) (?:20|60)\b", r"\1 2", command.replace("\\\n", " ")) for command, _ in SHOWN
]


def test_every_command_is_shown() -> None:
    commands = {shlex.split(command)[0] for command in COMMANDS}
    assert commands == {"demo", "init", "fit", "masks", "sweep", "report", "export", "bench", "info"}


def test_the_docs_run(tmp_path: Path) -> None:
    with inside(tmp_path):
        for command, (_, shown) in zip(COMMANDS, SHOWN, strict=True):
            done = bayesprune(*shlex.split(command))
            if shown.startswith("bayesprune: "):
                assert (done.code, done.err) == (2, shown)
            else:
                assert done.code == 0, (command, done.err)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("BAYESPRUNE_DATA"), reason="needs BAYESPRUNE_DATA with mnist/")
def test_the_script_goes_from_fit_to_bench_on_mnist(tmp_path: Path) -> None:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "EPOCHS": "1", "PRETRAIN": "1"}
    script = ROOT / "examples" / "mnist_cli.sh"
    done = subprocess.run(["bash", script, "run"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").stat().st_size < 200_000
