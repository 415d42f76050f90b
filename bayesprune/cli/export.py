"""``bayesprune export``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bayesprune.cli.options import Device, Folder, Json, Threads
from bayesprune.cli.output import show_json


def run(
    run: Folder = Path("run"),
    format: Annotated[
        list[str] | None,
        typer.Option(help="'fc*=BSR(16, 1)' in place of the fastest as measured; may be given again."),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples of the batch to be fast at; the fit's.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file; RUN/model.safetensors by default.")] = None,
    device: Device = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Pack what is kept, each weight in the format that is fastest here, and save the model to one file.

    Example: bayesprune export run --format 'fc*=BSR(16, 1)'
    """
    with Console(stderr=True).status("loading"):
        import torch

        from bayesprune.expressions import assigned
        from bayesprune.run_folder import RunFolder
        from bayesprune.runs import example_of, open_data, open_run
        from bayesprune.sparse import export, plan, save
        from bayesprune.sparse.formats import Format
    formats = assigned(format or (), Format, "'fc*=BSR(16, 1)'")  # type: ignore[type-abstract]
    folder = RunFolder(run)
    folder.check_run()
    masks, _ = folder.masks()
    file = out or folder.model_file
    if not file.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out {file}: there is no folder {file.parent}")
    with folder.locked():
        recipe, bnet = open_run(folder, device)
        torch.set_num_threads(threads or recipe.threads)
        example = example_of(open_data(recipe if batch is None else recipe.but(batch=batch)), bnet)
        found = plan(bnet.net, masks, example=example, formats=formats)
        save(export(bnet.net, bnet.means(), masks, example=example, plan=found), file)
        plain = {"model": str(file), "bytes": file.stat().st_size, **found.to_dict()}
        folder.write_json(folder.plan_file, plain)
    if json:
        show_json(plain)
        return
    print(found)
    print(f"wrote {file}, {plain['bytes']:,} bytes; next: bayesprune bench {run}")
