"""Files are whole or not there, wherever the path leads; what killed processes leave behind goes."""

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import bayesprune as bp
from bayesprune import _files
from bayesprune._files import cache_folder, is_temporary, keep, replace


def text(written: str):
    return lambda fresh: fresh.write_text(written)


def fail(fresh: Path) -> None:
    fresh.write_text("half")
    raise OSError("the disk is full")


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for before in (None, "old"):
        if before is not None:
            path.write_text(before)
        with pytest.raises(OSError, match="full"):
            replace(path, fail)
        assert [file.read_text() for file in tmp_path.iterdir()] == ([] if before is None else ["old"])


def test_a_symlink_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link, dangling = tmp_path / "elsewhere" / "real", tmp_path / "link", tmp_path / "dangling"
    target.write_text("old")
    link.symlink_to("elsewhere/real")
    dangling.symlink_to("elsewhere/new")
    replace(link, text("new"))
    replace(dangling, text("first"))
    assert link.is_symlink() and dangling.is_symlink()
    assert target.read_text() == "new" and (tmp_path / "elsewhere" / "new").read_text() == "first"
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match=r"symlink|symbolic"):
        replace(tmp_path / "round", text("x"))


@pytest.fixture
def null(tmp_path: Path) -> Path:
    """A null device of the test's own: a fault must not take the machine's away."""
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_bytes(b"")
    except (OSError, AttributeError):
        pytest.skip("no device can be made here")
    return device


@pytest.mark.parametrize("compress", [False, True])
def test_a_device_is_written_to_and_stays(null: Path, compress: bool) -> None:
    bp.save(torch.nn.Linear(3, 2), null, compress=compress)
    keep(null, b"1")
    assert stat.S_ISCHR(null.stat().st_mode) and [file.name for file in null.parent.iterdir()] == ["null"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX's")
@pytest.mark.parametrize("compress", [False, True])
def test_a_pipe_is_written_to_and_stays(tmp_path: Path, compress: bool) -> None:
    net, pipe, got = torch.nn.Linear(3, 2), tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    bp.save(net, pipe, compress=compress)
    reader.join(timeout=30)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    (tmp_path / "file").write_bytes(got[0])
    x = torch.randn(4, 3)
    assert torch.allclose(bp.load(tmp_path / "file")(x), net(x), atol=0.01 if compress else 0)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="expected a file"):
        replace(tmp_path, text("x"))


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_the_mode_is_what_the_umask_leaves_or_what_it_was(tmp_path: Path) -> None:
    net = torch.nn.Linear(3, 2)
    before = os.umask(0o027)
    try:
        for compress in (False, True):
            path = tmp_path / f"model{compress}"
            bp.save(net, path, compress=compress)
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        bp.save(net, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_the_file_then_the_name_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    really = Path.replace

    def synced(path: Path) -> None:
        done.append(f"sync {'folder' if path.is_dir() else path.read_text()}")

    def renamed(self: Path, target: Path) -> Path:
        done.append("rename")
        return really(self, target)

    monkeypatch.setattr(_files, "sync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    replace(tmp_path / "a", text("new"))
    assert done == ["sync new", "rename", "sync folder"]


@pytest.mark.skipif(os.name != "posix", reason="asks the system whether a process lives")
def test_what_a_killed_process_left_goes_at_the_next_write(tmp_path: Path) -> None:
    code = """
import os, pathlib, signal
from bayesprune._files import replace
def killed(fresh):
    fresh.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
replace(pathlib.Path("a.txt"), killed)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, timeout=60)
    (left,) = tmp_path.iterdir()
    assert is_temporary(left) and left.read_text() == "half"
    other, mine = (tmp_path / name for name in (".bayesprune-notes", "notes.tmp"))
    other.write_text("the user's")
    mine.write_text("the user's")

    def write(fresh: Path) -> None:
        fresh.write_text("whole")
        replace(tmp_path / "b.txt", text("by another thread"))  # the file under way is not taken away
        assert fresh.exists()

    replace(tmp_path / "a.txt", write)
    assert {file.name for file in tmp_path.iterdir()} == {"a.txt", "b.txt", ".bayesprune-notes", "notes.tmp"}


def test_another_machines_files_go_when_they_are_a_day_old(tmp_path: Path) -> None:
    fresh, old = (tmp_path / f".bayesprune-00000000-1-{digit * 32}.a" for digit in "ab")
    for file in (fresh, old):
        file.write_text("half")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    replace(tmp_path / "a", text("whole"))
    assert fresh.exists() and not old.exists()


def test_one_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYESPRUNE_CACHE", str(tmp_path / "named"))
    assert cache_folder("mnist") == tmp_path / "named" / "mnist"
    monkeypatch.delenv("BAYESPRUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("plans") == tmp_path / "xdg" / "bayesprune" / "plans"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert cache_folder("kernels") == tmp_path / "home" / ".cache" / "bayesprune" / "kernels"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    keep(tmp_path / "a-file" / "x", b"1")
    keep(tmp_path / "deep" / "x", b"1")
    assert (tmp_path / "deep" / "x").read_bytes() == b"1"
