"""The ``bayesprune masks`` command."""

from pathlib import Path
from typing import Annotated

import typer

from bayesprune import pruning, runs
from bayesprune.cli.completion import SALIENCIES, among
from bayesprune.cli.options import Device, Folder, Json, Scope, Trust, fraction
from bayesprune.cli.output import loading, show, show_json, table, tell


def run(
    run: Folder = Path("run"),
    keep: Annotated[
        float | None, typer.Option(parser=fraction, metavar="FRACTION", help="Of the weights to keep, as 0.05 or 5%.")
    ] = None,
    snr: Annotated[float | None, typer.Option(help="Keep the groups of at least this signal-to-noise ratio.")] = None,
    scope: Scope = "global",
    saliency: Annotated[
        str,
        typer.Option(
            help="What ranks groups for --keep: snr, magnitude, lamp, random.", autocompletion=among(*SALIENCIES)
        ),
    ] = "snr",
    device: Device = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Decide what stays: a budget, a threshold on SNR, or else the method's own rule.

    Example: bayesprune masks run --keep 0.05
    """
    with loading():
        open_run = runs.open_run
    folder, ranking = runs.RunFolder(run, trust), runs.saliency_of(saliency)
    pruning.check_keep(1.0 if keep is None else keep, scope)
    folder.check_run()
    with folder.locked():
        recipe, bnet = open_run(folder, device)
        _check_reached(snr, {name: float(part.max()) for name, part in bnet.snr().items()})
        with runs.seeded(recipe.seed):
            kept = pruning.masks(bnet, keep=keep, snr=snr, scope=scope, saliency=ranking)  # type: ignore[arg-type]
        if not any(bool(mask.any()) for mask in kept.values()):
            asked = "the methods' own rule" if keep is None else f"--keep {keep:g}"
            raise ValueError(f"{asked} keeps nothing: ask for more, as in --keep 0.05")
        choice = {"keep": keep, "snr": snr, "scope": scope, "saliency": saliency} if keep else {"snr": snr}
        folder.write_tensors(folder.masks_file, kept, choice)
    counts = {name: (int(mask.sum()), mask.numel()) for name, mask in kept.items()}
    total, entries = (sum(column) for column in zip(*counts.values(), strict=True))
    shapes = {name: list(mask.shape) for name, mask in kept.items()}
    if json:
        weights = {
            name: {"shape": shapes[name], "kept": stay, "entries": of, "method": str(bnet.methods[name])}
            for name, (stay, of) in counts.items()
        }
        show_json({"choice": choice, "kept": total, "entries": entries, "weights": weights})
        return
    rows = [
        [name, "×".join(map(str, shapes[name])), f"{stay:,}", f"{stay / of:.2%}", str(bnet.methods[name].pattern)]
        for name, (stay, of) in counts.items()
    ]
    rows.append(["all", "", f"{total:,}", f"{total / entries:.2%}", ""])
    words, numbers = "words", "numbers"
    headings = {"weight": words, "shape": words, "entries": numbers, "of its own": numbers, "pruned together": words}
    show(table("What is kept", headings, rows))
    tell(f"wrote {folder.masks_file}; next: {folder.command('report')}")


def _check_reached(snr: float | None, largest: dict[str, float]) -> None:
    """Raise ``ValueError`` where no group's ratio reaches the threshold: nothing would be kept."""
    if snr is not None and snr > max(largest.values(), default=snr):
        name = max(largest, key=lambda name: largest[name])
        raise ValueError(
            f"--snr {snr:g} keeps nothing: the largest ratio of a group is {largest[name]:.3g}, in {name!r}"
        )
