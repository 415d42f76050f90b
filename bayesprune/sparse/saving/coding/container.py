"""The container of a compressed file: header, checksum, and three streams."""

import hashlib
import struct
import zlib
from dataclasses import dataclass

from bayesprune.sparse.saving.coding.dictionary import DICTIONARY
from bayesprune.sparse.saving.manifest import VERSION, FileError, most_text

__all__ = ["Inflater", "Streams", "inflated", "is_compressed", "longest_text", "pack", "unpack"]

_MAGIC = b"\x89bpcode"  # no safetensors file begins so: its header would be far longer than any disk
_DIGEST = hashlib.sha256().digest_size
_LENGTHS = struct.Struct("<II")
_TEXT_GROWTH, _TEXT_SLACK = 64, 2**16  # a manifest may be so many times the file, and so many bytes more


@dataclass(frozen=True)
class Streams:
    """What a file holds: the manifest, the deflated bytes of what is kept exactly, and coded numbers."""

    text: str
    exact: bytes | memoryview
    numbers: bytes | memoryview


def longest_text(length: int) -> int:
    """The bytes that the manifest of a compressed file of ``length`` may have."""
    return min(most_text(length), _TEXT_GROWTH * length + _TEXT_SLACK)


def is_compressed(data: bytes) -> bool:
    """Whether a file begins as a compressed one does."""
    return data.startswith(_MAGIC)


def deflated(data: bytes, dictionary: bytes = b"") -> bytes:
    """The data in fewer bytes."""
    if not data:
        return b""
    coder = zlib.compressobj(9, wbits=-15, memLevel=9, zdict=dictionary)
    return coder.compress(data) + coder.flush()


def inflated(data: bytes | memoryview, most: int, dictionary: bytes = b"") -> bytes:
    """The inverse of :func:`deflated`. Raises ``ValueError`` on damage, or at more than ``most`` bytes."""
    if not data:
        return b""
    coder = zlib.decompressobj(-15, zdict=dictionary)
    try:
        found = coder.decompress(data, most + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(found) > most or not coder.eof or coder.unused_data:
        raise ValueError(f"it does not end, or holds more than {most:,} bytes")
    return found


class Inflater:
    """Reads what :func:`deflated` made of several things, one after the other. Raises ``ValueError`` on damage."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._coder, self._left = zlib.decompressobj(-15), data

    def read(self, length: int) -> bytes:
        """The next ``length`` bytes."""
        found = self._inflated(length) if length else b""
        if len(found) < length:
            raise ValueError(f"it ends after {len(found):,} of {length:,} bytes")
        return found

    def _inflated(self, most: int) -> bytes:
        try:
            found = self._coder.decompress(self._left, most)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        self._left = self._coder.unconsumed_tail
        return found

    def check_end(self) -> None:
        """Raise ``ValueError`` unless all was read."""
        more = self._inflated(1) if self._left or not self._coder.eof else b""
        if more or self._left or self._coder.unused_data:
            raise ValueError("the file holds more than its manifest tells of")


def pack(streams: Streams) -> bytes:
    """The file, byte by byte: ``\\x89bpcode``, the version, SHA-256 of all else, two lengths, and the three streams."""
    text = deflated(streams.text.encode(), DICTIONARY)
    begin = _MAGIC + bytes([VERSION])
    body = _LENGTHS.pack(len(text), len(streams.exact)) + text + streams.exact + streams.numbers
    return begin + hashlib.sha256(begin + body).digest() + body


def unpack(data: bytes) -> Streams:
    """What :func:`pack` put together.

    Raises:
        FileError: the file is damaged, altered or of another version.
    """
    begin, view = data[: len(_MAGIC) + 1], memoryview(data)  # no copies: files are large
    version = begin[-1] if len(begin) > len(_MAGIC) else VERSION
    if version > VERSION:
        raise FileError(f"written by a newer bayesprune (file version {version}, this reads {VERSION}): upgrade")
    digest, body = view[len(begin) : len(begin) + _DIGEST], view[len(begin) + _DIGEST :]
    found = hashlib.sha256(begin)
    found.update(body)
    if len(body) < _LENGTHS.size or digest != found.digest():
        raise FileError("the file does not match its checksum: it is damaged, cut short or was altered")
    text, exact = _LENGTHS.unpack_from(body)
    streams = body[_LENGTHS.size :]
    if text + exact > len(streams):
        raise FileError("the file's streams are longer than the file")
    try:
        manifest = inflated(streams[:text], longest_text(len(data)), DICTIONARY).decode()
    except ValueError as error:
        raise FileError(f"the manifest cannot be read: {error}") from error
    return Streams(manifest, streams[text : text + exact], streams[text + exact :])
