"""The ``bayesprune report`` command."""

from pathlib import Path
from typing import Annotated

import typer

from bayesprune import reporting, runs
from bayesprune.cli.options import Device, Folder, Json, Part, Threads, Trust
from bayesprune.cli.output import loading, show, show_json, tell


def run(
    run: Folder = Path("run"),
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page, too.")] = None,
    on: Part = "test",
    draws: Annotated[int, typer.Option(min=1, help="Draws of the posterior predictive.")] = 20,
    rival: Annotated[
        list[Path] | None, typer.Option(help="Another run, with masks, to stand beside; may be given again.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Examples a batch for latencies; the fit's by default.")
    ] = None,
    device: Device = None,
    threads: Threads = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Compare the pruned net with the dense one and with magnitude pruning: error, calibration, bytes, latency.

    Example: bayesprune report run --html report.html
    """
    with loading():
        report, open_run = reporting.report, runs.open_run
    folder, rivals = runs.RunFolder(run, trust), [runs.RunFolder(path, trust) for path in rival or ()]
    for each in (folder, *rivals):
        each.check_run()
        each.masks()
    if html is not None and not html.absolute().parent.is_dir():
        raise FileNotFoundError(f"--html {html}: there is no folder {html.parent}")
    with folder.locked():
        recipe, bnet = open_run(folder, device)
        runs.use_threads(recipe, threads)
        beside = {}
        for other in rivals:
            theirs, rival_net = open_run(other, device)
            theirs.check_like(recipe, str(other), str(folder))
            beside[str(other.path)] = rival_net.means(), other.masks()[0]
        data = runs.open_data(recipe if batch is None else recipe.but(batch=batch))
        found = report(
            bnet,
            folder.masks()[0],
            data.part(on),
            draws=draws,
            control=folder.control(),
            baseline=beside,
            classes=data.classes or None,
            seed=recipe.seed,
        )
        plain = {"run": str(run), "on": on, **found.to_dict()}
        folder.write_json(folder.report_file, plain)
        if html is not None:
            found.to_html(
                html,
                model=str(folder.model_file),
                net=recipe.net,
                data=recipe.data,
                run=str(run),
                recipe=folder.recipe_file.read_text(encoding="utf-8"),
                curve=runs.swept(folder),
            )
    if json:
        show_json(plain)
        return
    show(found)
    tell(f"wrote {folder.report_file}{'' if html is None else f', {html}'}; next: {folder.command('export')}")
