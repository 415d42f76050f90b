"""What a fit shows while it runs: a bar that moves each step, or a line an epoch where there is no terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bayesprune.fitting.history import Epoch
from bayesprune.pruning.callback import Callback, Run

__all__ = ["shown"]


class _Bar(Callback):
    """A bar over the steps of the run, with the time that is left."""

    def __init__(self, bar: Progress) -> None:
        self.bar, self.task = bar, TaskID(-1)

    def on_start(self, run: Run) -> None:
        self.task = self.bar.add_task("fit", total=run.steps, completed=run.step)

    def on_step(self, run: Run) -> None:
        words = f"fit  epoch {run.epoch}  NLL {run.nll:.3f}  KL {run.kl:,.0f}"
        if run.history.epochs:
            words += f"  kept {run.history.epochs[-1].kept:.1%}"
        self.bar.update(self.task, completed=run.step, description=words)

    def on_epoch(self, run: Run) -> None:
        self.bar.update(self.task, description=f"fit  {_words(run.history.epochs[-1])}")


class _Lines(Callback):
    """A line an epoch, for logs."""

    def on_epoch(self, run: Run) -> None:
        last, epochs = run.history.epochs[-1], round(run.epoch * run.steps / max(run.step, 1))
        of = "" if run.stopped else f"/{epochs}"
        print(f"epoch {last.epoch}{of}  {_words(last)}  {last.seconds:.1f} s", file=sys.stderr, flush=True)


def _words(epoch: Epoch) -> str:
    words = f"NLL {epoch.nll:.3f}  KL {epoch.kl:,.0f}  kept {epoch.kept:.1%}"
    for what, value in (("val NLL", epoch.val_nll), ("val error", epoch.val_error)):
        words += "" if value is None else f"  {what} {value:.4g}"
    return words


@contextmanager
def shown(wanted: bool | None) -> Iterator[list[Callback]]:
    """Callbacks that show a fit on stderr: a bar on a terminal or in a notebook with ipywidgets, else a line an epoch;
    none where nothing is ``wanted``."""
    console = Console(stderr=True)
    if wanted is False:
        yield []
    elif console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            yield [_Bar(bar)]
    else:
        yield [_Lines()]
