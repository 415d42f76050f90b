"""The ``bayesprune demo`` command."""

from pathlib import Path
from typing import Annotated

import typer

from bayesprune import fitting, pruning, runs
from bayesprune.cli.completion import among
from bayesprune.cli.options import DEVICES, fraction
from bayesprune.cli.output import loading, say, show, tell


def run(
    data: Annotated[
        str,
        typer.Option(
            help="digits (bundled with scikit-learn) or mnist (downloaded).", autocompletion=among("digits", "mnist")
        ),
    ] = "digits",
    out: Annotated[Path | None, typer.Option(help="Folder to write; a new numbered one by default.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of each posterior and of its rival.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes initial weights, shuffling and draws.")] = 0,
    keep: Annotated[
        float | None,
        typer.Option(
            parser=fraction, metavar="FRACTION", help="One budget, as 0.02 or 2%; by default 2, 1 and 0.5% of digits."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.", autocompletion=DEVICES)] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print the whole report, too.")] = False,
) -> None:
    """Train, fit sparse posteriors, prune by SNR, pack, verify and save, on real data.

    Example: bayesprune demo --keep 0.01 --out demo
    """
    with loading():
        tasks = runs.TASKS
    if data not in tasks:
        raise ValueError(f"--data is one of {', '.join(tasks)}; got {data!r}")
    if keep is not None:
        pruning.check_keep(keep)
    fitting.check_device(device)
    tasks[data].load()  # what is missing is said before there is a folder
    folder = runs.claim_folder(out, force)
    done = runs.run_demo(tasks[data], folder, name=data, epochs=epochs, seed=seed, keep=keep, device=device, say=say)
    if verbose:
        show(done.report)
        tell("")
    tell(runs.headline(done))
    show(runs.budgets_table(done))
    if verbose:
        tell(f"wrote {folder}/: model.safetensors, report.html, report.json, snr.png")
        tell(f"load it: python -c \"import bayesprune as bp; print(bp.load('{folder}/model.safetensors'))\"")
    tell(f"open {folder}/report.html")
