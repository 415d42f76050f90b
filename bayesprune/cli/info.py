"""The ``bayesprune info`` command."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bayesprune import runs, sparse
from bayesprune.cli.options import Json
from bayesprune.cli.output import facts, show, show_json, table

_LAYER = dict.fromkeys(("layer", "outputs × inputs", "format", "kernel", "then"), "words")


def run(
    path: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="A run folder, or a saved model.")] = Path("run"),
    json: Json = False,
) -> None:
    """Say what is in a run folder or a saved model: how far it is, what it keeps, sizes, versions.

    Example: bayesprune info run/model.safetensors
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {str(path)!r}: name a run folder or a .safetensors file")
    found, tables = _of_run(path) if path.is_dir() else _of_model(path)
    if json:
        show_json(found)
        return
    for made in tables:
        show(made)


def _of_run(path: Path) -> tuple[dict[str, Any], list[Any]]:
    folder = runs.RunFolder(path)
    recipe = folder.recipe()
    if recipe is None:
        raise FileNotFoundError(f"{folder} holds no run: it lacks recipe.toml, which bayesprune fit writes")
    found: dict[str, Any] = {"run": str(path), "finished": folder.finished}
    if folder.finished:
        last = folder.fit().history.epochs[-1]
        found["fit"] = folder.read_json(folder.fit_file)["history"]["epochs"][-1]
        nll, kl, kept = (float("nan") if figure is None else figure for figure in (last.nll, last.kl, last.kept))
        state = f"finished: NLL {nll:.4f}, KL {kl:,.0f} nats, {kept:.2%} kept while fitting"
    else:
        found["reached"] = folder.reached()
        state = f"not finished ({folder.reached()}); {folder.go_on()} goes on"
    if folder.masks_file.exists():
        masks, choice = folder.read_tensors(folder.masks_file)
        kept, entries = sum(int(m.sum()) for m in masks.values()), sum(m.numel() for m in masks.values())
        found["masks"] = {"choice": choice, "kept": kept, "entries": entries}
    found["files"] = {file.name: file.stat().st_size for file in sorted(path.glob("[!.]*")) if file.is_file()}
    found["older_than_masks"] = stale = folder.stale()
    found["recipe"] = {name: value for name, value in vars(recipe).items() if value not in (None, ())}
    told = [["state", state], *([name, _shown(value)] for name, value in found["recipe"].items())]
    if "masks" in found:
        how = ", ".join(f"{n}={v}" for n, v in choice.items() if v is not None) or "the methods' own rule"
        told.insert(1, ["masks", f"{kept:,} of {entries:,} weights kept ({kept / max(entries, 1):.2%}), by {how}"])
    files = [[f"{n}, older than the masks" if n in stale else n, f"{size:,}"] for n, size in found["files"].items()]
    return found, [facts(str(folder), told), table("Files", {"file": "words", "bytes": "numbers"}, files)]


def _of_model(path: Path) -> tuple[dict[str, Any], list[Any]]:
    found = sparse.contents(path)
    loads = "bp.load(path)" if found["loads_alone"] else f"bp.load(path, net=…), for {found['needs_net']}"
    size, unpacked, dense = (found[which] for which in ("bytes", "packed_bytes", "dense_bytes"))
    times = f", {dense / size:.3g} times this file" if size else ""
    told = [
        ["bytes", f"{size:,}, compressed" if found["compressed"] else f"{size:,}"],
        ["once loaded", f"{unpacked:,} bytes; dense in float32 it is {dense:,}{times}"],
        ["loads by", loads],
    ]
    packed = [
        [name, _sides(layer), layer["format"], layer["kernel"], layer["activation"] or "–", _counted(layer["bytes"])]
        for name, layer in found["layers"].items()
    ]
    others = [
        [name, _sides(tensor), f"{tensor['dtype']}, {tensor['stored']}", _counted(tensor["bytes"])]
        for name, tensor in found["tensors"].items()
    ]
    smaller = [
        [name, ", ".join(f"{n} {_size(was)} → {_size(now)}" for n, (was, now) in changes.items())]
        for name, changes in found["smaller"].items()
    ]
    return found, [
        facts(str(path), told),
        *([table("Made smaller", {"module": "words", "sizes": "words"}, smaller)] if smaller else ()),
        table("Packed layers", {**_LAYER, "bytes": "numbers"}, packed),
        table("Other tensors", {"tensor": "words", "shape": "words", "stored": "words", "bytes": "numbers"}, others),
    ]


def _sides(entry: dict[str, Any]) -> str:
    return "×".join(map(str, entry["shape"]))


def _counted(size: int | None) -> str:
    return "–" if size is None else f"{size:,}"


def _size(size: int | tuple[int, ...] | None) -> str:
    return "none" if size is None else str(size) if isinstance(size, int) else "×".join(map(str, size))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return "\n".join(value) if isinstance(value, tuple) else str(value)
