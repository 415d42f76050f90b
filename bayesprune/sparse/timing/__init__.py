"""Times: taken in turns, and kept on disk."""

from bayesprune.sparse.timing.cache import timed
from bayesprune.sparse.timing.interleaved import time_interleaved

__all__ = [
    "time_interleaved",
    "timed",
]
