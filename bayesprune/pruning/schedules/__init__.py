"""Pruning schedules: callbacks of :func:`bayesprune.fit`, one file each."""

from bayesprune.pruning.schedules.cubic import Cubic

__all__ = [
    "Cubic",
]
