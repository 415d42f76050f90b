"""Turns of threads: what uses a process's global state (random generators, Pyro's handlers, torch's flags) goes one by
one."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = ["Turns", "in_turn", "turns"]

P = ParamSpec("P")
R = TypeVar("R")


class Turns:
    """A re-entrant lock that goes to threads in the order in which they asked, and that its owner can lend to the next.

    >>> turns = Turns()
    >>> with turns.taken(), turns.taken():
    ...     turns.wanted
    False
    """

    def __init__(self) -> None:
        self._clear()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._clear)  # its owner is no thread of the child's

    def _clear(self) -> None:
        self._changed = threading.Condition()
        self._owner: int | None = None
        self._depth = 0
        self._asking: deque[object] = deque()

    @property
    def wanted(self) -> bool:
        """Whether another thread asks for the turn."""
        return bool(self._asking)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """The turn, for a block: waits for it, unless this thread has it already."""
        if self._owner == threading.get_ident():
            self._depth += 1
        else:
            self._take(1)
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._leave()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Within the turn: hand it to whoever asks, for a block, and wait for it afterwards."""
        depth = self._depth
        self._leave()
        try:
            yield
        finally:
            self._take(depth)

    def _take(self, depth: int) -> None:
        ticket = object()
        with self._changed:
            self._asking.append(ticket)
            try:
                self._changed.wait_for(lambda: self._owner is None and self._asking[0] is ticket)
                self._owner, self._depth = threading.get_ident(), depth
            finally:
                self._asking.remove(ticket)
                self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._owner, self._depth = None, 0
            self._changed.notify_all()


turns = Turns()
"""The turns of this process."""


def in_turn(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, called in turn with all others that are."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with turns.taken():
            return function(*args, **kwargs)

    return called
