"""Timing: candidates measured in turns, and times cached on disk."""

from bayesprune.sparse.timing.cache import timed
from bayesprune.sparse.timing.interleaved import time_interleaved

__all__ = [
    "time_interleaved",
    "timed",
]
