"""The ``bayesprune export`` command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bayesprune import pruning, runs, sparse
from bayesprune.cli.options import Device, Folder, Json, Threads, Trust
from bayesprune.cli.output import loading, show_json, tell
from bayesprune.sparse import bench, compact, planning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from bayesprune.sparse.formats.quantised import Bits


def run(
    run: Folder = Path("run"),
    format: Annotated[
        list[str] | None,
        typer.Option(help="'fc*=BSR(16, 1)' in place of the fastest as measured; may be given again."),
    ] = None,
    bits: Annotated[
        str | None, typer.Option(help="8 or 4 for integers, or posterior: in as few as each weight's posterior bears.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples of the batch to be fast at; the fit's.")] = None,
    cut: Annotated[bool, typer.Option("--compact", help="First remove the channels and heads that are empty.")] = False,
    compress: Annotated[
        bool, typer.Option("--compress", help="Round the weights as finely as the posterior tells, to a small file.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The file; RUN/model.safetensors by default.")] = None,
    device: Device = None,
    threads: Threads = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Pack what is kept, each weight in the format that is fastest here, and save the model to one file.

    Example: bayesprune export run --format 'fc*=BSR(16, 1)'
    """
    if bits not in (None, "4", "8", "posterior"):
        raise ValueError(f"--bits is 8, 4 or posterior; got {bits!r}")
    with loading():
        open_run = runs.open_run
    formats = runs.assigned(format or (), sparse.Format, "'fc*=BSR(16, 1)'")  # type: ignore[type-abstract]
    folder = runs.RunFolder(run, trust)
    folder.check_run()
    masks, _ = folder.masks()
    file = out or folder.model_file
    if not file.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out {file}: there is no folder {file.parent}")
    if file.is_dir():
        raise IsADirectoryError(f"--out {file} is a folder: name a file in it")
    with folder.locked():
        recipe, bnet = open_run(folder, device)
        runs.use_threads(recipe, threads)
        example = runs.example_of(runs.open_data(recipe if batch is None else recipe.but(batch=batch)), bnet)
        net, variances = bnet.net, bnet.variances()
        means: Mapping[str, Tensor] = bnet.means()
        widths: Bits = pruning.bit_widths(bnet, masks) if bits == "posterior" else int(bits) if bits else None
        smaller, about = None, {}
        if cut:
            smaller = compact.compact(net, means, masks, example=example)
            about = {"compact": {**_before_and_after(net, smaller.net, example), "stays": dict(smaller.reasons)}}
            now = {name: smaller.now(name) for name in masks}
            formats = planning.left_formats(formats, now, smaller.masks)
            widths = planning.left_bits(widths, now, smaller.masks)
            net, means, masks, variances = smaller.net, {}, dict(smaller.masks), smaller.cut(variances)
        found = sparse.plan(net, masks, example=example, formats=formats, bits=widths)
        packed = sparse.export(net, means, masks, example=example, plan=found, variances=variances)
        sparse.save(packed, file, compress=compress)
        plain = {"model": str(file), "bytes": file.stat().st_size, **about, **found.to_dict()}
        folder.write_json(folder.plan_file, plain)
    if json:
        show_json(plain)
        return
    if smaller is not None:
        tell(smaller)
        (weights, left), (flops, fewer) = about["compact"]["weights"], about["compact"]["flops"]
        tell(f"{weights:,} → {left:,} weights, {flops:,} → {fewer:,} FLOPs a batch\n")
    tell(found)
    then = folder.command("bench") if file == folder.model_file else f"bayesprune info {file}"
    tell(f"wrote {file}, {plain['bytes']:,} bytes; next: {then}")


def _before_and_after(net: "nn.Module", smaller: "nn.Module", example: object) -> dict[str, list[int]]:
    weights = [sum(p.numel() for p in one.parameters()) for one in (net, smaller)]
    return {"weights": weights, "flops": [bench.flops(one, example) for one in (net, smaller)]}
