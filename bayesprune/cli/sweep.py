"""The ``bayesprune sweep`` command."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

import bayesprune as bp
from bayesprune import pruning, runs
from bayesprune.cli.completion import CORRUPTIONS, SALIENCIES, among
from bayesprune.cli.options import Device, Json, Part, Scope, Threads, Trust, fraction
from bayesprune.cli.output import loading, say, show_json, tell

RUNS = [Path("run")]
BUDGETS = [0.5, 0.2, 0.1, 0.05, 0.02, 0.01]
RANKINGS = ["snr", "magnitude", "random"]
SEVERITIES = [3]
_ALIKE = 1.02  # a budget that whole groups could not meet exactly


def run(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Finished runs; several seeds give a spread.")
    ] = RUNS,
    keep: Annotated[
        list[float] | None,
        typer.Option(
            parser=fraction, metavar="FRACTION", help="Of the weights to keep, as 0.05 or 5%; may be given again."
        ),
    ] = None,
    saliency: Annotated[
        list[str], typer.Option(help="What ranks groups; may be given again.", autocompletion=among(*SALIENCIES))
    ] = RANKINGS,
    scope: Scope = "global",
    on: Part = "val",
    draws: Annotated[int | None, typer.Option(min=1, help="Score so many draws; by default the mean.")] = None,
    corruption: Annotated[
        list[str] | None,
        typer.Option(
            help="Score spoilt images too: gaussian_noise, …, or all; may be given again.",
            autocompletion=among("all", *CORRUPTIONS),
        ),
    ] = None,
    severity: Annotated[list[int], typer.Option(min=1, max=5, help="How badly; may be given again.")] = SEVERITIES,
    latency: Annotated[bool, typer.Option("--latency", help="Pack and time each net: about a second a point.")] = False,
    device: Device = None,
    threads: Threads = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Prune to each budget by each ranking, and score what is left.

    Example: bayesprune sweep run --keep 5% --keep 2% --keep 1%
    """
    with loading():
        sweep, open_run = bp.sweep, runs.open_run
    for budget in keep or BUDGETS:
        pruning.check_keep(budget, scope)
    rankings = [runs.saliency_of(name) for name in saliency]
    known = {c.__name__: c for c in bp.corruptions.CORRUPTIONS}
    spoils = list(known) if corruption == ["all"] else corruption or []
    for name in spoils:
        if name not in known:
            raise ValueError(f"there is no corruption {name!r}; {runs.suggestion(name, ['all', *known])}")
    folders = [runs.RunFolder(path, trust) for path in paths]
    for folder in folders:
        folder.check_run()
    with folders[0].locked():
        opened = [open_run(folder, device) for folder in folders]
        recipe = opened[0][0]
        for folder, (other, _) in zip(folders, opened, strict=True):
            other.check_like(recipe, str(folder), str(folders[0]))
        runs.use_threads(recipe, threads)
        bnets = [bnet for _, bnet in opened]
        curve = sweep(
            bnets,
            runs.open_data(recipe).part(on),
            keep=_below(keep, max(map(_left, bnets))),
            saliencies=rankings,
            scope=scope,  # type: ignore[arg-type]
            seeds=[recipe.seed],
            draws=draws,
            corruptions=[known[name] for name in spoils],
            severities=severity,
            latency=latency,
        )
        found = {"runs": [str(path) for path in paths], "on": on, **curve.to_dict()}
        folders[0].write_json(folders[0].sweep_file, found)
        runs.write_curve(folders[0].curve_file, curve)
    if json:
        show_json(found)
        return
    tell(curve)
    tell(f"wrote {folders[0].sweep_file}, {folders[0].curve_file}")


def _left(bnet: "bp.BayesianNet") -> float:
    """The fraction of the weights that a schedule has left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = pruning.masks(bnet, keep=1.0)
    return sum(int(mask.sum()) for mask in kept.values()) / sum(mask.numel() for mask in kept.values())


def _below(asked: list[float] | None, left: float) -> list[float]:
    """The budgets that take something away, or keep what is left; says which of those that were asked for do not."""
    most = left * _ALIKE
    over = [f"{budget:g}" for budget in asked or () if budget > most]
    if asked and len(over) == len(asked):
        raise ValueError(f"--keep {over[0]} is more than the fit left, {left:.2%} of the weights: ask for less")
    if over:
        say(f"left out, for the fit left {left:.2%} of the weights: --keep {', '.join(over)}")
    return [budget for budget in asked or BUDGETS if budget <= most] or [left]
