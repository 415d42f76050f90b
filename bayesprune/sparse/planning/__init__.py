"""Plans: per weight, the format and kernel that were fastest on the user's shapes."""

from bayesprune.sparse.planning.plan import Choice, Plan

__all__ = [
    "Choice",
    "Plan",
]
