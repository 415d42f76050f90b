"""Timing: candidates measured in turns, and times cached on disk."""

from bayesprune.sparse.timing.cache import timed
from bayesprune.sparse.timing.race import race

__all__ = [
    "race",
    "timed",
]
