"""``bayesprune init``: what it writes runs as it says, and nothing of the user's is lost."""

import shlex
from pathlib import Path

import pytest
from support.command import bayesprune, inside, refused


def test_the_module_runs_as_it_says(tmp_path: Path) -> None:
    with inside(tmp_path):
        done = bayesprune("init", "first_net.py")
        assert done.code == 0, done.err
        said = done.out.strip().splitlines()[-1].removeprefix("next: bayesprune ")
        fitted = bayesprune(*shlex.split(said.replace("--pretrain 20", "--pretrain 2")), "--epochs", "2", "--json")
        assert fitted.code == 0, fitted.err
        assert fitted.json["nll"] < 0.69  # nats, what guessing one of two costs
        assert bayesprune("masks", "run", "--trust", "--keep", "50%").code == 0


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    with inside(tmp_path):
        Path("mine.py").write_text("mine = 1\n")
        assert "add --force" in refused("init", "mine.py")
        assert Path("mine.py").read_text() == "mine = 1\n"
        assert bayesprune("init", "mine.py", "--force").code == 0
        assert "def net()" in Path("mine.py").read_text()


@pytest.mark.parametrize("name", ["my-net.py", "net.txt", "nowhere/net.py", "2.py"])
def test_what_cannot_be_a_module_is_refused(tmp_path: Path, name: str) -> None:
    with inside(tmp_path):
        assert refused("init", name)
        assert not list(tmp_path.iterdir())
