"""The manifest: a file's JSON header, each entry checked as it is read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from bayesprune.sparse.formats import FORMATS, Format
from bayesprune.sparse.kernels.base import ACTIVATIONS
from bayesprune.sparse.layers.sizes import Size, SizeChange
from bayesprune.sparse.saving.storage import DTYPES

__all__ = ["VERSION", "FileError", "Manifest", "SparseEntry", "TensorEntry", "sha256"]

VERSION = 3
T = TypeVar("T")


class FileError(ValueError):
    """A model file that is not one, is damaged, or does not fit the net it is loaded into."""


def sha256(x: Tensor) -> str:
    """The checksum of a tensor's bytes."""
    return hashlib.sha256(x.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _take(entry: object, key: str, kind: type[T], where: str) -> T:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise FileError(f"the manifest is malformed: {where} needs {key!r} of type {kind.__name__}, got {value!r}")
    return value


def _sides(value: list[object], where: str) -> tuple[int, ...]:
    if not all(isinstance(side, int) and not isinstance(side, bool) and side >= 0 for side in value):
        raise FileError(f"the manifest is malformed: {where} has the shape {value!r}")
    return tuple(side for side in value if isinstance(side, int))


def _size(value: object, where: str) -> Size:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if not isinstance(value, list):
        raise FileError(f"the manifest is malformed: {where} has the size {value!r}")
    return _sides(value, where)


def _changes(entry: object, where: str) -> dict[str, SizeChange]:
    if not isinstance(entry, dict) or not all(isinstance(pair, list) and len(pair) == 2 for pair in entry.values()):
        raise FileError(f"the manifest is malformed: {where} was made smaller by {entry!r}")
    return {name: (_size(was, where), _size(now, where)) for name, (was, now) in entry.items()}


def _entry(text: str) -> dict[str, object]:
    """The manifest as JSON, if this version reads it."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"the manifest is no JSON: {error}") from error
    version = _take(entry, "version", int, "the manifest")
    if version > VERSION:
        raise FileError(f"written by a newer bayesprune (file version {version}, this reads {VERSION}): upgrade")
    if version < VERSION:
        raise FileError(f"written before bayesprune was released (file version {version}): export and save again")
    return entry


@dataclass(frozen=True)
class TensorEntry:
    """A parameter or a buffer of the net, and how its parts lie in the file under ``parts``."""

    kind: str
    dtype: str
    shape: tuple[int, ...]
    how: str
    block: tuple[int, ...]
    parts: dict[str, str]
    grad: bool
    channels_last: bool

    @property
    def nbytes(self) -> int:
        """What it claims to take once unpacked; a dtype that is not known is as large as any."""
        dtype = DTYPES.get(self.dtype)
        return prod(self.shape) * (dtype.itemsize if dtype else 16)

    @classmethod
    def read(cls, entry: object, where: str) -> "TensorEntry":
        kind = _take(entry, "kind", str, where)
        parts = _take(entry, "parts", dict, where)
        if kind not in ("parameter", "buffer") or not all(isinstance(part, str) for part in parts.values()):
            raise FileError(f"the manifest is malformed: {where} is neither a parameter nor a buffer")
        block = _sides(_take(entry, "block", list, where), where)
        if len(block) not in (0, 2):
            raise FileError(f"the manifest is malformed: {where} has the block {block}")
        return cls(
            kind,
            _take(entry, "dtype", str, where),
            _sides(_take(entry, "shape", list, where), where),
            _take(entry, "how", str, where),
            block,
            parts,
            _take(entry, "grad", bool, where),
            _take(entry, "channels_last", bool, where),
        )


@dataclass(frozen=True)
class SparseEntry:
    """A layer that runs packed: its format, kernel, shape ``(out, in)`` and activation."""

    format: Format
    kernel: str
    shape: tuple[int, int]
    activation: str = ""

    def write(self) -> dict[str, object]:
        sizes = list(asdict(self.format).values())  # type: ignore[call-overload]
        name = type(self.format).__name__
        shape = list(self.shape)
        return {"format": [name, *sizes], "kernel": self.kernel, "shape": shape, "activation": self.activation}

    @classmethod
    def read(cls, entry: object, where: str) -> "SparseEntry":
        name, *sizes = _take(entry, "format", list, where) or [None]
        shape = _sides(_take(entry, "shape", list, where), where)
        if not isinstance(name, str) or name not in FORMATS:
            raise FileError(
                f"{where} is packed as {name!r}; this version knows {', '.join(FORMATS)}: upgrade bayesprune"
            )
        if len(shape) != 2:
            raise FileError(f"the manifest is malformed: {where} has the shape {shape}")
        try:
            form = FORMATS[name](*sizes)
        except (TypeError, ValueError) as error:
            raise FileError(f"the manifest is malformed: {where}: {error}") from error
        activation = _take(entry, "activation", str, where)
        if activation not in ACTIVATIONS:
            raise FileError(f"{where} has the activation {activation!r}, which this version does not know: upgrade")
        return cls(form, _take(entry, "kernel", str, where), (shape[0], shape[1]), activation)


@dataclass(frozen=True)
class Manifest:
    """What a file says of itself.

    Args:
        net: the net as JSON (see ``rebuild``), or None where loading needs ``net=``.
        needs_net: why it does.
        tensors: each parameter and buffer by its name.
        ties: names of one and the same parameter or buffer: each further name, and the first.
        sparse: the layers that run packed, by path.
        opened: the modules that were opened so that they could (see ``wholes``), by path, and whether split.
        shrunk: the modules that are smaller than ``net`` or the net's classes make them, by path: each size before and
            now (see ``sizes``).
        silent: the paths of ``nn.Identity``, where an activation or batch normalisation may have stood.
        buffers: dtype, shape and checksum of each tensor in the file.
    """

    net: dict[str, object] | None
    needs_net: str
    tensors: dict[str, TensorEntry]
    ties: dict[str, str]
    sparse: dict[str, SparseEntry]
    opened: dict[str, bool]
    shrunk: dict[str, dict[str, SizeChange]]
    silent: list[str]
    buffers: dict[str, list[object]] = field(default_factory=dict)

    def text(self) -> str:
        """The manifest as JSON."""
        entry = {
            "version": VERSION,
            "net": self.net,
            "needs_net": self.needs_net,
            "tensors": {name: asdict(t) for name, t in self.tensors.items()},
            "ties": self.ties,
            "sparse": {path: s.write() for path, s in self.sparse.items()},
            "opened": self.opened,
            "shrunk": self.shrunk,
            "silent": self.silent,
            "buffers": self.buffers,
        }
        return json.dumps(entry, separators=(",", ":"))

    def write(self) -> dict[str, str]:
        """The strings that go into the file's metadata."""
        text = self.text()
        return {"format": "pt", "bayesprune": text, "bayesprune.sha256": hashlib.sha256(text.encode()).hexdigest()}

    @classmethod
    def read(cls, metadata: Mapping[str, object]) -> "Manifest":
        """Raises :class:`FileError` on a newer version, an altered text or an entry of the wrong kind."""
        text = metadata.get("bayesprune")
        if not isinstance(text, str):
            raise FileError("not a bayesprune model: the file has no manifest")
        entry = _entry(text)
        if metadata.get("bayesprune.sha256") != hashlib.sha256(text.encode()).hexdigest():
            raise FileError("the manifest does not match its checksum: the file is damaged or was altered")
        return cls._of(entry)

    @classmethod
    def parse(cls, text: str) -> "Manifest":
        """The manifest of a :meth:`text` that a checksum has covered. Raises as :meth:`read`."""
        return cls._of(_entry(text))

    @classmethod
    def _of(cls, entry: dict[str, object]) -> "Manifest":
        net, where = entry.get("net"), "the manifest"
        ties, buffers = _take(entry, "ties", dict, where), _take(entry, "buffers", dict, where)
        if not (net is None or isinstance(net, dict)) or not all(isinstance(first, str) for first in ties.values()):
            raise FileError("the manifest is malformed")
        tensors = {name: TensorEntry.read(t, name) for name, t in _take(entry, "tensors", dict, where).items()}
        sparse = {path: SparseEntry.read(s, path) for path, s in _take(entry, "sparse", dict, where).items()}
        opened = _take(entry, "opened", dict, where)
        opened = {path: _take(opened, path, bool, f"{path!r}, opened,") for path in opened}
        shrunk = {path: _changes(c, path) for path, c in _take(entry, "shrunk", dict, where).items()}
        silent = _take(entry, "silent", list, where)
        if not all(isinstance(path, str) for path in silent):
            raise FileError("the manifest is malformed: a module's path is a string")
        return cls(net, _take(entry, "needs_net", str, where), tensors, ties, sparse, opened, shrunk, silent, buffers)

    def check_buffers(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise :class:`FileError` unless these are the tensors that were written, to the byte."""
        if tensors.keys() != self.buffers.keys():
            raise FileError("the file's tensors are not those that its manifest names")
        parts = [at for entry in self.tensors.values() for at in entry.parts.values()]
        if len(set(parts)) < len(parts):
            raise FileError("the manifest is malformed: it makes two tensors of one and the same in the file")
        for name, x in tensors.items():
            if self.buffers[name] != [str(x.dtype).removeprefix("torch."), list(x.shape), sha256(x)]:
                raise FileError(f"{name!r} does not match its checksum: the file is damaged or was altered")
