"""Output of commands: results to stdout as tables or JSON, everything else to stderr."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from bayesprune import runs
from bayesprune.tables import Table

__all__ = ["facts", "loading", "say", "show", "show_json", "table", "trouble"]


@contextmanager
def loading() -> Iterator[None]:
    """While names of our rooms are looked up, which loads torch and Pyro for the first of them: say so."""
    with Console(stderr=True).status("loading"):
        yield


def say(text: str) -> None:
    """A line about what is going on."""
    Console(stderr=True, soft_wrap=True).print(text, style="bold", markup=False, highlight=False)


def trouble(text: str) -> None:
    """A line about what went wrong."""
    Console(stderr=True, soft_wrap=True).print(f"[bold red]bayesprune:[/] {escape(text)}", highlight=False)


def show(result: Any) -> None:
    """Print what a command found; wide where it goes into a file or a pipe."""
    Console(width=None if sys.stdout.isatty() else 140).print(result, highlight=False)


def show_json(data: Any) -> None:
    """Print plain data as JSON."""
    print(runs.to_json(data), end="")


def table(title: str, headings: Mapping[str, str], rows: Iterable[Sequence[str]]) -> RichTable:
    """A table as reports have them; each heading says whether its column holds ``"words"`` or ``"numbers"``."""
    words = frozenset(heading for heading, kind in headings.items() if kind == "words")
    return Table(title, words, tuple(headings), [tuple(row) for row in rows]).__rich__()


def facts(title: str, rows: Iterable[Sequence[str]]) -> RichTable:
    """Names and what they stand for."""
    made = table(title, {"name": "words", "value": "words"}, rows)
    made.box, made.show_header = box.SIMPLE, False
    return made
