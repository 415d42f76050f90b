"""What a saved model holds, read from its manifest: no weight is unpacked, and nothing is run."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bayesprune.sparse.manifest import FileError, Manifest, TensorEntry

__all__ = ["contents"]


def contents(path: Path) -> dict[str, Any]:
    """What :func:`bayesprune.save` wrote, as plain data: the packed layers, the other tensors, and their bytes.

    Raises:
        FileError: it is no saved model, or a newer one. The weights' checksums are looked at by ``load`` alone.

    >>> import tempfile, torch
    >>> from bayesprune.sparse import save
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save(torch.nn.Linear(100, 10), path)
    >>> found = contents(path)
    >>> found["loads_alone"], found["tensors"]["weight"]["bytes"]
    (True, 4000)
    """
    try:
        with safe_open(path, "pt") as opened:
            manifest = Manifest.read(opened.metadata() or {})
            stored = {name: _bytes(opened.get_slice(name)) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FileError(f"{path} is not a whole safetensors file: {error}") from error
    except FileError as error:
        raise FileError(f"{path}: {error}") from error
    layers: dict[str, dict[str, Any]] = {}
    inside: dict[str, str] = {}
    for layer, entry in manifest.sparse.items():
        layers[layer] = {
            "shape": list(entry.shape),
            "format": str(entry.format),
            "kernel": entry.kernel,
            "activation": entry.activation,
            "bytes": 0,
        }
        prefix = f"{layer}." if layer else ""
        inside |= {prefix + part: layer for part in ("values", "crow", "col", "scale")}
    tensors = {}
    for name, tensor in manifest.tensors.items():
        size = sum(stored[part] for part in tensor.parts.values() if part in stored)
        if name in inside:
            layers[inside[name]]["bytes"] += size
        else:
            tensors[name] = _described(tensor, size)
    return {
        "model": str(path),
        "bytes": path.stat().st_size,
        "loads_alone": manifest.net is not None,
        "needs_net": manifest.needs_net or None,
        "layers": layers,
        "tensors": tensors,
    }


def _bytes(part: Any) -> int:
    size = {"F64": 8, "I64": 8, "C64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}.get(part.get_dtype(), 1)
    for side in part.get_shape():
        size *= side
    return size


def _described(entry: TensorEntry, size: int) -> dict[str, Any]:
    return {"shape": list(entry.shape), "dtype": entry.dtype, "kind": entry.kind, "stored": entry.how, "bytes": size}
