"""Atomic file replacement, and the one cache folder: a file is replaced by a whole new one or not at all."""

import contextlib
import errno
import hashlib
import os
import platform
import re
import stat
import time
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path

__all__ = ["cache_folder", "is_temporary", "keep", "make_folder", "replace", "sync"]

_TEMPORARY = re.compile(r"\.bayesprune-(?P<space>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{32}\.")
_OLD = 24 * 3600.0  # seconds after which a temporary file of another machine is nobody's


def replace(path: Path, write: Callable[[Path], object], *, lasting: bool = True, private: bool = False) -> None:
    """Let ``write`` make a new file beside ``path``, then put it in its place; if ``write`` fails, nothing changes.

    Several processes may do so at once: the last whole file stays. A symlink stays, and what it points to is replaced.
    A device or a pipe is written to directly. The file's mode is that of the file before, or what the umask leaves.
    Temporary files that killed processes left in the folder are removed.

    Args:
        path: the file.
        write: writes to the path that it is given.
        lasting: wait until the disk has it: a power cut leaves the old file or the new one.
        private: no other user may read or write the file.

    Raises:
        OSError: the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "notes.txt"
    >>> replace(path, lambda fresh: fresh.write_text("new"))
    >>> [file.name for file in path.parent.iterdir()]
    ['notes.txt']
    """
    mode = _mode(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "expected a file, and this is a folder", str(path))
    if mode is not None and not stat.S_ISREG(mode):
        write(path)
        return
    path = Path(os.path.realpath(path))
    if path.is_symlink():
        raise OSError(errno.ELOOP, "symlinks that lead to one another", str(path))
    _remove_left_over(path.parent)
    # the name ends in the file's own, whose suffix says the kind of a picture
    fresh = path.with_name(f".bayesprune-{_process_space()}-{os.getpid()}-{uuid.uuid4().hex}.{path.name}")
    try:
        with fresh.open("xb") as file:
            new = os.fstat(file.fileno()).st_mode
        write(fresh)
        wanted = 0o600 if private else new if mode is None else mode
        if stat.S_IMODE(fresh.stat().st_mode) != stat.S_IMODE(wanted):
            fresh.chmod(stat.S_IMODE(wanted))
        if lasting:
            sync(fresh)
        fresh.replace(path)
        if lasting:
            sync(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the disk has a file's contents, or a folder's names, where the system can say so of a folder."""
    if path.is_dir():
        if os.name == "posix":
            with contextlib.suppress(OSError):
                _sync(path, os.O_RDONLY)
    else:
        _sync(path, os.O_RDWR)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are not there, so that a power cut leaves them where they are.

    Raises:
        FileExistsError: it is a file.
        OSError: it cannot be made.
    """
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def is_temporary(path: Path) -> bool:
    """Whether a file is one that :func:`replace` was writing, by its name."""
    return _TEMPORARY.match(path.name) is not None


def cache_folder(kind: str) -> Path:
    """The folder of one kind of thing (kernels, plans, a data set) in the cache; it need not be there.

    The cache is ``BAYESPRUNE_CACHE``, else ``bayesprune`` in ``XDG_CACHE_HOME``, else ``~/.cache/bayesprune``, on every
    system.

    >>> cache_folder("plans").name
    'plans'
    """
    named = os.environ.get("BAYESPRUNE_CACHE")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bayesprune"
    return base / kind


def keep(path: Path, data: bytes) -> None:
    """Write a cached file whole or not at all. A folder that cannot be written costs time later, and nothing else."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace(path, lambda fresh: fresh.write_bytes(data), lasting=False, private=True)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_left_over(folder: Path) -> None:
    """Remove the temporary files of processes that are no more, and those of another machine that are a day old."""
    with contextlib.suppress(OSError):
        for file in folder.glob(".bayesprune-*"):
            found = _TEMPORARY.match(file.name)
            if found is None:
                continue
            here = os.name == "posix" and found["space"] == _process_space()
            with contextlib.suppress(OSError):
                if not _alive(int(found["pid"])) if here else time.time() - file.stat().st_mtime > _OLD:
                    file.unlink()


@cache
def _process_space() -> str:
    """Eight hex digits of the machine or container in which a process number means the same process."""
    space = platform.node()
    with contextlib.suppress(OSError):
        space += str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(space.encode(errors="replace")).hexdigest()[:8]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True
