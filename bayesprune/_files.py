"""Atomic file replacement: a file is replaced by a whole new one or not at all."""

import uuid
from collections.abc import Callable
from pathlib import Path

__all__ = ["replace"]


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a new file beside ``path``, then put it in its place; if ``write`` fails, nothing changes.

    Several processes may do so at once: the last whole file stays.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "notes.txt"
    >>> replace(path, lambda fresh: fresh.write_text("new"))
    >>> [file.name for file in path.parent.iterdir()]
    ['notes.txt']
    """
    fresh = path.with_name(f".{uuid.uuid4().hex}.{path.name}")  # keeps the suffix, which says the kind of a picture
    try:
        write(fresh)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
