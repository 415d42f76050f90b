"""A table, written once: rich draws it in a terminal, Jinja on a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table as RichTable

__all__ = ["Table", "as_text"]

_WIDE = 10_000  # columns: nothing is folded


@dataclass(frozen=True)
class Table:
    """Rows of text under headings.

    Args:
        title: what the table is about.
        words: the headings of columns of words.
        headings: all headings, in order; the columns that are not words are numbers.
        rows: a text for each heading.
        note: how the numbers came about.

    >>> print(Table("Sizes", frozenset(["weight"]), ("weight", "bytes"), [("fc.weight", "1,024")]))
    Sizes
    <BLANKLINE>
     weight     bytes
     ─────────────────
     fc.weight  1,024
    """

    title: str
    words: frozenset[str]
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""

    def __rich__(self) -> RichTable:
        """Where the terminal is narrow, words are folded and numbers are not."""
        title = f"{self.title}: {self.note}" if self.note else self.title
        table = RichTable(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in self.headings:
            if heading in self.words:
                table.add_column(escape(heading), overflow="fold", min_width=len(heading))
            else:
                table.add_column(escape(heading), justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table

    def __str__(self) -> str:
        return as_text(self, _WIDE)


def as_text(shown: RenderableType, width: int) -> str:
    """What rich prints, without colours, at most ``width`` columns wide."""
    # in Jupyter, rich shows what it is to print, and writes nothing
    console = Console(file=StringIO(), width=width, color_system=None, force_jupyter=False)
    console.print(shown)
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).rstrip()
