"""Inspect a saved model's contents without running it or unpacking weights."""

from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bayesprune.sparse.saving.coding import Streams, decode, is_compressed, unpack
from bayesprune.sparse.saving.limits import beyond
from bayesprune.sparse.saving.manifest import FileError, Manifest, TensorEntry, check_header

__all__ = ["contents"]


def contents(path: Path) -> dict[str, Any]:
    """What :func:`bayesprune.save` wrote, as plain data: the packed layers, the other tensors, and their bytes.

    ``smaller`` tells of the modules that were made so: each size before and now. ``bytes`` are those of the file,
    ``packed_bytes`` what its tensors take once loaded, ``dense_bytes`` what they would take dense and in float32. The
    bytes of a tensor in a compressed file are None where ``load`` asks for ``net=``, since that many are not decoded.

    Raises:
        FileError: it is no saved model, or a newer one. Of a file that is not compressed, the weights' checksums are
            looked at by ``load`` alone.

    >>> import tempfile, torch
    >>> from bayesprune.sparse import save
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save(torch.nn.Linear(100, 10), path)
    >>> found = contents(path)
    >>> found["loads_alone"], found["tensors"]["weight"]["bytes"]
    (True, 4000)
    """
    try:
        data = path.read_bytes()
        if is_compressed(data):
            streams = unpack(data)
            manifest = Manifest.parse(streams.text)
            asks = beyond(manifest.tensors, len(streams.text), len(data))
            sizes = None if asks else _decoded(manifest, streams)
        else:
            check_header(data)
            manifest, letters, sizes = _listed(path)
            asks = beyond(manifest.tensors, letters, len(data))
    except SafetensorError as error:
        raise FileError(f"{path} is not a whole safetensors file: {error}") from error
    except FileError as error:
        raise FileError(f"{path}: {error}") from error
    layers: dict[str, dict[str, Any]] = {}
    inside: dict[str, str] = {}
    for layer, entry in manifest.surgery.packed.items():
        layers[layer] = {
            "shape": list(entry.shape),
            "format": str(entry.format),
            "kernel": entry.kernel,
            "activation": entry.activation,
            "bytes": None if sizes is None else 0,
        }
        prefix = f"{layer}." if layer else ""
        inside |= {prefix + part: layer for part in ("values", "crow", "col", "scale")}
    tensors = {}
    for name, tensor in manifest.tensors.items():
        size = None if sizes is None else sizes[name]
        if name not in inside:
            tensors[name] = _described(tensor, size)
        elif size is not None:
            layers[inside[name]]["bytes"] += size
    dense = sum(prod(entry.shape) for entry in manifest.surgery.packed.values())
    dense += sum(prod(tensor["shape"]) for tensor in tensors.values())
    return {
        "model": str(path),
        "bytes": len(data),
        "packed_bytes": sum(tensor.nbytes for tensor in manifest.tensors.values()),
        "dense_bytes": 4 * dense,
        "compressed": is_compressed(data),
        "loads_alone": manifest.net is not None and not asks,
        "needs_net": manifest.needs_net or asks or None,
        "smaller": {
            path: {n: list(sizes) for n, sizes in changes.items()} for path, changes in manifest.surgery.sizes.items()
        },
        "layers": layers,
        "tensors": tensors,
    }


def _listed(path: Path) -> tuple[Manifest, int, dict[str, int]]:
    """The manifest of a file that is not compressed, its letters, and the bytes of each tensor."""
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata() or {}
        manifest = Manifest.read(metadata)
        stored = {name: _bytes(opened.get_slice(name)) for name in opened.keys()}  # noqa: SIM118
    parts = {
        name: [stored[part] for part in t.parts.values() if part in stored] for name, t in manifest.tensors.items()
    }
    return manifest, len(metadata["bayesprune"]), {name: sum(sizes) for name, sizes in parts.items()}


def _decoded(manifest: Manifest, streams: Streams) -> dict[str, int]:
    """The bytes of each tensor in a compressed file."""
    found = decode(streams.exact, streams.numbers, manifest.tensors, manifest.surgery.packed).nbytes
    return {name: round(found.get(name, 0.0)) for name in manifest.tensors}


def _bytes(part: Any) -> int:
    size = {"F64": 8, "I64": 8, "C64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}.get(part.get_dtype(), 1)
    for side in part.get_shape():
        size *= side
    return size


def _described(entry: TensorEntry, size: int | None) -> dict[str, Any]:
    return {"shape": list(entry.shape), "dtype": entry.dtype, "kind": entry.kind, "stored": entry.how, "bytes": size}
