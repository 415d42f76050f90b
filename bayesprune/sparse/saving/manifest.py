"""The manifest: a file's JSON header, decoded into types, each entry checked as it is read."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Annotated, Any, Literal

import msgspec
import torch
from torch import Tensor

from bayesprune._text import visible
from bayesprune.sparse import formats
from bayesprune.sparse.activations import ACTIVATIONS
from bayesprune.sparse.formats import format_of
from bayesprune.sparse.layers.sizes import SizeChange
from bayesprune.sparse.saving.storage import DTYPES
from bayesprune.sparse.surgery.surgery import PackedLayer, Surgery

__all__ = ["VERSION", "FileError", "Manifest", "TensorEntry", "check_header", "most_text", "sha256"]

VERSION = 3
_SMALL_TEXT = 2**20  # bytes of a manifest of any file
Side = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Shape = Annotated[tuple[Side, ...], msgspec.Meta(max_length=64)]


def most_text(length: int) -> int:
    """The bytes that the manifest of a file of ``length`` may have: as Python's objects it takes many times as many."""
    return _SMALL_TEXT + length // 8


def check_header(data: bytes) -> None:
    """Raise :class:`FileError` where a safetensors file's header is longer than its manifest may be."""
    length = int.from_bytes(data[:8], "little")
    if length > 2 * most_text(len(data)):  # it holds the manifest as a string, and tells of each tensor once more
        raise FileError(f"its header of {length:,} bytes tells of more than a file of {len(data):,} bytes holds")


class FileError(ValueError):
    """A model file that is not one, is damaged, or does not fit the net it is loaded into."""

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))  # it quotes names of the file


def sha256(x: Tensor) -> str:
    """The checksum of a tensor's bytes."""
    return hashlib.sha256(x.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


class TensorEntry(msgspec.Struct, frozen=True):
    """A parameter or a buffer of the net, and how its parts lie in the file under ``parts``."""

    kind: Literal["parameter", "buffer"]
    dtype: str
    shape: Shape
    how: str
    block: Annotated[tuple[Side, ...], msgspec.Meta(max_length=2)]
    parts: dict[str, str]
    grad: bool
    channels_last: bool

    def __post_init__(self) -> None:
        if len(self.block) == 1:
            raise ValueError(f"a block has two sides or none, got {self.block}")

    @property
    def numel(self) -> int:
        """How many entries it claims to have."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """The bytes of an entry; a dtype that is not known is as large as any."""
        dtype = DTYPES.get(self.dtype)
        return dtype.itemsize if dtype else 16

    @property
    def nbytes(self) -> int:
        """What it claims to take once unpacked."""
        return self.numel * self.itemsize


class _Layer(msgspec.Struct, omit_defaults=True):
    """A layer that runs packed, as it is written."""

    format: Annotated[list[str | int | None], msgspec.Meta(min_length=1)]
    kernel: str
    shape: tuple[Side, Side]
    activation: str
    contiguous: bool = False

    @classmethod
    def of(cls, layer: PackedLayer) -> "_Layer":
        sizes = asdict(layer.format).values()  # type: ignore[call-overload]
        return cls([type(layer.format).__name__, *sizes], layer.kernel, layer.shape, layer.activation, layer.contiguous)

    def read(self, where: str) -> PackedLayer:
        name, *sizes = self.format
        if name not in formats.FORMATS:
            raise FileError(
                f"{where} is packed as {name!r}; this version knows {', '.join(formats.FORMATS)}: upgrade bayesprune"
            )
        if self.activation not in ACTIVATIONS:
            raise FileError(
                f"{where} has the activation {self.activation!r}, which this version does not know: upgrade"
            )
        try:
            form = format_of(str(name), sizes)
        except ValueError as error:
            raise FileError(f"the manifest is malformed: {where}: {error}") from error
        return PackedLayer(form, self.kernel, self.shape, self.activation, self.contiguous)


class _Version(msgspec.Struct):
    version: int


class _Text(msgspec.Struct, kw_only=True):
    """The manifest as it is written; entries that have a name are decoded one by one, so that an error can tell it."""

    version: int
    net: dict[str, Any] | None = None
    needs_net: str
    tensors: dict[str, msgspec.Raw]
    ties: dict[str, str]
    sparse: dict[str, msgspec.Raw]
    opened: dict[str, bool]
    shrunk: dict[str, msgspec.Raw]
    silent: list[str]
    buffers: dict[str, tuple[str, Shape, str]]


_SIZES = dict[str, tuple[Side | Shape | None, Side | Shape | None]]


def _decoded(text: str | msgspec.Raw, kind: Any, where: str = "") -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise FileError(f"the manifest is malformed: {where}{': ' if where else ''}{error}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise FileError(f"the manifest is no JSON: {error}") from error


@dataclass(frozen=True)
class Manifest:
    """What a file says of itself.

    Args:
        net: the net as JSON (see ``rebuild``), or None where loading needs ``net=``.
        needs_net: why it does.
        tensors: each parameter and buffer by its name.
        ties: names of one and the same parameter or buffer: each further name, and the first.
        surgery: what was done to the net as its classes make it; written as ``sparse``, ``opened``, ``shrunk`` and
            ``silent``.
        buffers: dtype, shape and checksum of each tensor in the file.
    """

    net: dict[str, Any] | None
    needs_net: str
    tensors: dict[str, TensorEntry]
    ties: dict[str, str]
    surgery: Surgery = field(default_factory=Surgery)
    buffers: dict[str, tuple[str, Shape, str]] = field(default_factory=dict)

    def text(self) -> str:
        """The manifest as JSON."""
        done = self.surgery
        entry = {
            "version": VERSION,
            "net": self.net,
            "needs_net": self.needs_net,
            "tensors": self.tensors,
            "ties": self.ties,
            "sparse": {path: _Layer.of(layer) for path, layer in done.packed.items()},
            "opened": done.composites,
            "shrunk": done.sizes,
            "silent": done.identities,
            "buffers": self.buffers,
        }
        return msgspec.json.encode(entry).decode()

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
        _check_version(text)
        if metadata.get("bayesprune.sha256") != hashlib.sha256(text.encode()).hexdigest():
            raise FileError("the manifest does not match its checksum: the file is damaged or was altered")
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> "Manifest":
        """The manifest of a :meth:`text` that a checksum has covered. Raises as :meth:`read`."""
        _check_version(text)
        found: _Text = _decoded(text, _Text)
        tensors = {name: _decoded(raw, TensorEntry, name) for name, raw in found.tensors.items()}
        packed = {path: _decoded(raw, _Layer, path).read(path) for path, raw in found.sparse.items()}
        sizes: dict[str, dict[str, SizeChange]] = {}
        sizes |= {path: _decoded(raw, _SIZES, path) for path, raw in found.shrunk.items()}
        surgery = Surgery(found.opened, sizes, packed, found.silent)
        return cls(found.net, found.needs_net, tensors, found.ties, surgery, found.buffers)

    def check_buffers(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise :class:`FileError` unless these are the tensors that were written, to the byte."""
        if tensors.keys() != self.buffers.keys():
            raise FileError("the file's tensors are not those that its manifest names")
        parts = [at for entry in self.tensors.values() for at in entry.parts.values()]
        if len(set(parts)) < len(parts):
            raise FileError("the manifest is malformed: it makes two tensors of one and the same in the file")
        for name, x in tensors.items():
            if self.buffers[name] != (str(x.dtype).removeprefix("torch."), tuple(x.shape), sha256(x)):
                raise FileError(f"{name!r} does not match its checksum: the file is damaged or was altered")


def _check_version(text: str) -> None:
    version: int = _decoded(text, _Version).version
    if version > VERSION:
        raise FileError(f"written by a newer bayesprune (file version {version}, this reads {VERSION}): upgrade")
    if version < VERSION:
        raise FileError(f"written before bayesprune was released (file version {version}): export and save again")
