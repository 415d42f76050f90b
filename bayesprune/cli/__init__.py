"""The command line: a file for each command, under the names that the API has."""

import warnings
from typing import Annotated

import typer

import bayesprune as bp
from bayesprune.cli import bench, demo, export, fit, info, init, masks, report, sweep
from bayesprune.cli.output import say, trouble
from bayesprune.cli.words import in_words

__all__ = ["app", "main"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
for _name, _command in (
    ("demo", demo),
    ("init", init),
    ("fit", fit),
    ("masks", masks),
    ("sweep", sweep),
    ("report", report),
    ("export", export),
    ("bench", bench),
    ("info", info),
):
    app.command(_name)(_command.run)

_UsageError: type = typer.BadParameter.__mro__[1]  # Typer's own or click's, by Typer's version
_THEIRS = (
    *(ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError),
    *(PermissionError, BlockingIOError),
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"bayesprune {bp.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Bayesian sparsification for PyTorch: fit a sparse posterior, look at it, export what is smaller and faster."""


def main() -> None:
    """Run the command line.

    Exit codes: 0, it did what was asked; 1, it ran and failed; 2, what was asked cannot be done, and one line on
    stderr says what to type instead; 130, interrupted.
    """
    warnings.showwarning = _show_warning
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        if told[0]:
            trouble(told[0])
        raise SystemExit(told[1]) from None
    if code == 130:
        trouble("interrupted")
    raise SystemExit(code if isinstance(code, int) else 0)


def _told(error: Exception) -> tuple[str, int] | None:
    """What to say of an error, and the exit code; ``None`` for a fault of our own."""
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "bayesprune"
        message = error.format_message()  # type: ignore[attr-defined]
        return message and f"{message} See '{path} --help'.", 2  # no message: the help was printed
    if isinstance(error, _THEIRS):
        return in_words(str(error)) or type(error).__name__, 2
    if isinstance(error, (OSError, FloatingPointError, MemoryError)):
        return str(error) or type(error).__name__, 1
    return None


def _show_warning(message: Warning | str, *_args: object, **_kwargs: object) -> None:
    say(f"warning: {in_words(str(message))}")
