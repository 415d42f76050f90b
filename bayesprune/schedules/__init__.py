"""When to prune: callbacks of :func:`bayesprune.fit`, a file each."""

from bayesprune.schedules.base import Callback, Run
from bayesprune.schedules.cubic import Cubic

__all__ = ["Callback", "Cubic", "Run"]
