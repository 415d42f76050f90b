"""When to prune: callbacks of :func:`bayesprune.fit`, a file each."""

from bayesprune.pruning.schedules.cubic import Cubic

__all__ = [
    "Cubic",
]
