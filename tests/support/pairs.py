"""All-pairs in place of the full cross: the few rows of a cross in which everything that is asked for still occurs."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import combinations, product
from operator import itemgetter
from typing import Any, TypeVar

Row = TypeVar("Row")


def cover(rows: Sequence[Row], *views: Callable[[Row], Hashable]) -> list[Row]:
    """Rows in which each view still shows every value that it shows over all of them, in the order they came.

    Greedy and deterministic: first the rows that show something new in every view, last those that do in one. What a
    row can show anew only shrinks while others are taken, so one pass for each number of views is enough.
    """
    shown: set[tuple[int, Hashable]] = set()
    taken: set[int] = set()
    for wanted in range(len(views), 0, -1):
        for i, row in enumerate(rows):
            new = {(v, view(row)) for v, view in enumerate(views)} - shown
            if len(new) >= wanted:
                shown |= new
                taken.add(i)
    return [rows[i] for i in sorted(taken)]


def pairs(*factors: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Rows with one value of each factor, such that any two values of two factors stand together in some row."""
    rows = list(product(*factors))
    return cover(rows, *(itemgetter(*two) for two in combinations(range(len(factors)), 2)))
