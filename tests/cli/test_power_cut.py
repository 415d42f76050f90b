"""Every file of a run folder is on the disk before its name says so, and the name and its folder after that."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import FIT, bayesprune, inside

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux which file is synced")


class Recorder:
    """The calls that make files last, in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[tuple[str, Path, Path | None]] = []
        fsync, rename, replace, mkdir = os.fsync, Path.rename, Path.replace, Path.mkdir

        def synced(handle: int) -> None:
            self.said.append(("sync", Path(f"/proc/self/fd/{handle}").resolve(), None))
            fsync(handle)

        def renamed(path: Path, target: Path) -> Path:
            self.said.append(("rename", path.resolve(), Path(target).resolve()))
            return rename(path, target)

        def replaced(path: Path, target: Path) -> Path:
            self.said.append(("rename", path.resolve(), Path(target).resolve()))
            return replace(path, target)

        def made(path: Path, *args: object, **kwargs: object) -> None:
            there = path.is_dir()
            mkdir(path, *args, **kwargs)
            if not there:
                self.said.append(("mkdir", path.resolve(), None))

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(Path, "rename", renamed)
        monkeypatch.setattr(Path, "replace", replaced)
        monkeypatch.setattr(Path, "mkdir", made)

    def synced(self, path: Path, after: int, before: int | None = None) -> bool:
        return any(what == "sync" and at == path for what, at, _ in self.said[after:before])


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    with inside(tmp_path):
        yield tmp_path


def test_every_file_of_a_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    assert bayesprune(*FIT, "--epochs", "1", "--pretrain", "1", "--out", "new/run").code == 0
    for command in (("masks", "--keep", "0.5"), ("report", "--draws", "2", "--html", "page.html"), ("export",)):
        assert bayesprune(command[0], "new/run", *command[1:]).code == 0, command
    monkeypatch.undo()
    said, lasting = recorder.said, set()
    for i, (what, path, target) in enumerate(said):
        if here not in path.parents:
            continue
        if what == "rename" and target is not None:
            assert recorder.synced(path, 0, i), f"{target} has its name before the disk has it"
            if path.is_dir() or target.name.startswith("epoch-"):
                inner = [at for kind, at, _ in said[:i] if kind == "sync" and at.parent == path]
                assert {at.name for at in inner} >= {"manifest.json", "run.safetensors", "rank-0.safetensors"}
            assert recorder.synced(target.parent, i), f"the folder of {target} is never synced"
            lasting.add(target)
        elif what == "mkdir" and path.name != ".new":
            assert recorder.synced(path.parent, i), f"the folder of the folder {path} is never synced"
    there = {path for path in here.rglob("*") if path.is_file() and path.name != ".lock"}
    assert there - lasting == set()
    names = {"recipe.toml", "fit.json", "report.json", "plan.json", "page.html", "model.safetensors"}
    names |= {f"{what}.safetensors" for what in ("dense", "control", "posterior", "masks")}
    assert {path.name for path in there} == names
