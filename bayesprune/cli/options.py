"""Options shared by several commands."""

from pathlib import Path
from typing import Annotated

import typer

from bayesprune.cli.completion import among


def fraction(written: str | float) -> float:
    """``0.05`` or ``5%`` as a number.

    >>> fraction("5%"), fraction("0.5")
    (0.05, 0.5)
    """
    text = str(written).strip()
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise typer.BadParameter(f"a fraction is written as 0.05 or 5%, got {text!r}") from None


Folder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that bayesprune fit finished.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]
Part = Annotated[
    str, typer.Option("--on", help="The part of the data: test or val.", autocompletion=among("test", "val"))
]
DEVICES = among("cpu", "cuda", "mps")
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, mps; by default where it was fitted.", autocompletion=DEVICES),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of torch; by default those of the fit.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the code that the run or recipe names, as net, data or method.")
]
Scope = Annotated[
    str,
    typer.Option(
        help="One budget for all weights together (global), or one for each (layer).",
        autocompletion=among("global", "layer"),
    ),
]
