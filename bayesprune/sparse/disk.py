"""The on-disk cache of compiled kernels and measured times."""

import contextlib
import os
from pathlib import Path

from bayesprune._files import replace

__all__ = ["cache_folder", "keep"]


def cache_folder(kind: str) -> Path:
    """The folder of one kind of thing, under ``BAYESPRUNE_CACHE`` or the user's cache folder; it need not be there.

    >>> cache_folder("plans").name
    'plans'
    """
    named = os.environ.get("BAYESPRUNE_CACHE")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bayesprune"
    return base / kind


def keep(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. A folder that cannot be written costs time later, and nothing else."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace(path, lambda fresh: fresh.write_bytes(data))
