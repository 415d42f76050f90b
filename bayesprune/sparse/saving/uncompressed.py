"""The bytes of a file that is not compressed: safetensors, with the manifest in its metadata."""

import json
from collections.abc import Mapping

import safetensors.torch
from torch import Tensor, nn

from bayesprune.sparse.saving.description import Kind, is_channels_last, net_as_json, unique_tensors
from bayesprune.sparse.saving.limits import beyond
from bayesprune.sparse.saving.manifest import Manifest, TensorEntry, sha256
from bayesprune.sparse.saving.storage import Stored, plain, store
from bayesprune.sparse.surgery.surgery import Surgery

__all__ = ["uncompressed"]


def uncompressed(sparse: nn.Module) -> bytes:
    """The file that ``save(sparse, path)`` writes; the same for the same net.

    A net that the file alone gives back is stored so that :func:`bayesprune.load` takes it: its emptiest tensors
    plain, where all would unpack to far more than the file.

    Raises:
        ValueError: a tensor that no file can hold.
    """
    tensors, ties = unique_tensors(sparse)
    node, needs_net = net_as_json(sparse, len(tensors) + len(ties))
    stored = {name: store(x) for name, (_, x) in tensors.items()}
    done = Surgery.of(sparse)
    if node is not None:
        unsummed = {at: (str(x.dtype), tuple(x.shape), "0" * 64) for at, x in _parts(stored).items()}
        letters = len(Manifest(node, needs_net, _entries(tensors, stored), ties, done, unsummed).text())
        stored = _loadable(tensors, stored, letters)
    parts = _parts(stored)
    sums = {at: (str(x.dtype).removeprefix("torch."), tuple(x.shape), sha256(x)) for at, x in parts.items()}
    metadata = Manifest(node, needs_net, _entries(tensors, stored), ties, done, sums).write()
    # clone: safetensors refuses tensors that share memory
    return _metadata_in_order(safetensors.torch.save({at: x.clone() for at, x in parts.items()}, metadata), metadata)


def _loadable(tensors: Mapping[str, tuple[Kind, Tensor]], stored: dict[str, Stored], letters: int) -> dict[str, Stored]:
    """``stored``, with as many tensors plain as it takes for :func:`bayesprune.load` to ask for no net."""
    stored = dict(stored)
    growth = {name: x.nbytes - stored[name].nbytes for name, (_, x) in tensors.items()}
    packed = sorted((name for name in growth if growth[name] > 0), key=growth.__getitem__)
    while packed and beyond(_entries(tensors, stored), letters, sum(s.nbytes for s in stored.values())):
        name = packed.pop()
        stored[name] = plain(tensors[name][1])
    return stored


def _places(name: str, stored: Stored) -> dict[str, str]:
    """Under what name in the file each part of a tensor lies."""
    return {part: name if part == "values" else f"{name}/{part}" for part in stored.parts}


def _parts(stored: Mapping[str, Stored]) -> dict[str, Tensor]:
    """All tensors of the file by their names in it."""
    parts: dict[str, Tensor] = {}
    for name, one in stored.items():
        places = _places(name, one)
        if parts.keys() & set(places.values()):
            raise ValueError(f"the name {name!r} is taken: a module's name must not end in /bits, /crow or /col")
        parts |= {places[part]: x.contiguous() for part, x in one.parts.items()}
    return parts


def _entries(tensors: Mapping[str, tuple[Kind, Tensor]], stored: Mapping[str, Stored]) -> dict[str, TensorEntry]:
    entries = {}
    for name, (kind, x) in tensors.items():
        one = stored[name]
        like = one.dtype, one.shape, one.how, one.block or (), _places(name, one)
        entries[name] = TensorEntry(kind, *like, x.requires_grad, is_channels_last(x))
    return entries


def _metadata_in_order(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """The file with its metadata in their own order: safetensors writes them in a new one each time."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = json.dumps({"__metadata__": dict(metadata)} | {n: e for n, e in header.items() if n != "__metadata__"})
    padded = text.encode() + b" " * (-len(text.encode()) % 8)
    return len(padded).to_bytes(8, "little") + padded + data[8 + length :]
