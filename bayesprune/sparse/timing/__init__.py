"""Times: taken in turns, and kept on disk."""

from bayesprune.sparse.timing.cache import timed
from bayesprune.sparse.timing.race import race

__all__ = [
    "race",
    "timed",
]
