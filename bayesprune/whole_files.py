"""Files that are replaced only by whole new ones."""

from collections.abc import Callable
from pathlib import Path

__all__ = ["replace"]


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a new file beside ``path``, then put it in its place; if ``write`` fails, nothing changes.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "notes.txt"
    >>> replace(path, lambda fresh: fresh.write_text("new"))
    >>> [file.name for file in path.parent.iterdir()]
    ['notes.txt']
    """
    fresh = path.with_name(f".new.{path.name}")
    try:
        write(fresh)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
