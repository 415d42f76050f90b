"""Names and globs: a name that is equal is meant, before any glob is tried."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

__all__ = ["matching"]


def matching(glob: str, names: Iterable[str]) -> list[str]:
    """The name that ``glob`` is, or else those that it matches. Brackets in a name need no escape.

    >>> matching("task[0].weight", ["task[0].weight", "task0.weight"])
    ['task[0].weight']
    >>> matching("task*", ["task[0].weight", "head.weight"])
    ['task[0].weight']
    """
    found = list(names)
    return [glob] if glob in found else [name for name in found if fnmatchcase(name, glob)]
