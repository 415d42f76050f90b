"""Options shared by several commands."""

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that bayesprune fit finished.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]
Part = Annotated[str, typer.Option("--on", help="The part of the data: test or val.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; by default where it was fitted.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of torch; by default those of the fit.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the code that the run or recipe names, as net, data or method.")
]
Scope = Annotated[str, typer.Option(help="One budget for all weights together (global), or one for each (layer).")]
