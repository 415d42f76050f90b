"""The progress bar of a fit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bayesprune.fitting.history import History

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(wanted: bool | None, epochs: int) -> Iterator[Callable[[History], None]]:
    """A bar on stderr that is told the history after each epoch; by default only on a terminal or in a notebook."""
    console = Console(stderr=True)
    if wanted is None:
        wanted = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=not wanted)
    with bar if wanted else nullcontext():
        task = bar.add_task("fit", total=epochs)

        def show(history: History) -> None:
            if history.epochs:
                last = history.epochs[-1]
                words = f"fit  NLL {last.nll:.3f}  KL {last.kl:,.0f}  kept {last.kept:.1%}"
                bar.update(task, completed=len(history.epochs), description=words)

        yield show
