"""Output of commands: results to stdout as tables or JSON, everything else to stderr."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.segment import Segment, Segments
from rich.table import Table as RichTable

from bayesprune import runs
from bayesprune._text import visible
from bayesprune.tables import Table

__all__ = ["facts", "loading", "say", "show", "show_json", "table", "tell", "trouble"]


@contextmanager
def loading() -> Iterator[None]:
    """While names of our rooms are looked up, which loads torch and Pyro for the first of them: say so."""
    with Console(stderr=True).status("loading"):
        yield


def say(text: str) -> None:
    """A line about what is going on."""
    Console(stderr=True, soft_wrap=True).print(visible(text), style="bold", markup=False, highlight=False)


def trouble(text: str) -> None:
    """One line about what went wrong: the first, where an error of others' has many."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    Console(stderr=True, soft_wrap=True).print(f"[bold red]bayesprune:[/] {escape(visible(line))}", highlight=False)


def show(result: Any) -> None:
    """Print what a command found; wide where it goes into a file or a pipe. Escapes in names are shown, not sent."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    plain = [part if part.control else Segment(visible(part.text), part.style) for part in console.render(result)]
    console.print(Segments(plain), highlight=False, end="")


def tell(result: object) -> None:
    """Print plain text, as wide as it is. Escapes in names are shown, not sent."""
    print(visible(str(result)))


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
