"""The container of a compressed file: header, checksum, and three streams."""

import hashlib
import struct
import zlib
from dataclasses import dataclass

from bayesprune.sparse.saving.coding.dictionary import DICTIONARY
from bayesprune.sparse.saving.manifest import VERSION, FileError

__all__ = ["Streams", "inflated", "is_compressed", "pack", "unpack"]

_MAGIC = b"\x89bpcode"  # no safetensors file begins so: its header would be far longer than any disk
_DIGEST = hashlib.sha256().digest_size
_LENGTHS = struct.Struct("<II")
_MOST_TEXT = 2**24  # bytes of a manifest


@dataclass(frozen=True)
class Streams:
    """What a file holds: the manifest, the deflated bytes of what is kept exactly, and coded numbers."""

    text: str
    exact: bytes
    numbers: bytes


def is_compressed(data: bytes) -> bool:
    """Whether a file begins as a compressed one does."""
    return data.startswith(_MAGIC)


def deflated(data: bytes, dictionary: bytes = b"") -> bytes:
    """The data in fewer bytes."""
    if not data:
        return b""
    coder = zlib.compressobj(9, wbits=-15, memLevel=9, zdict=dictionary)
    return coder.compress(data) + coder.flush()


def inflated(data: bytes, most: int, dictionary: bytes = b"") -> bytes:
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
    begin, rest = data[: len(_MAGIC) + 1], data[len(_MAGIC) + 1 :]
    version = begin[-1] if len(begin) > len(_MAGIC) else VERSION
    if version > VERSION:
        raise FileError(f"written by a newer bayesprune (file version {version}, this reads {VERSION}): upgrade")
    digest, body = rest[:_DIGEST], rest[_DIGEST:]
    if len(body) < _LENGTHS.size or digest != hashlib.sha256(begin + body).digest():
        raise FileError("the file does not match its checksum: it is damaged, cut short or was altered")
    text, exact = _LENGTHS.unpack_from(body)
    streams = body[_LENGTHS.size :]
    if text + exact > len(streams):
        raise FileError("the file's streams are longer than the file")
    try:
        manifest = inflated(streams[:text], _MOST_TEXT, DICTIONARY).decode()
    except ValueError as error:
        raise FileError(f"the manifest cannot be read: {error}") from error
    return Streams(manifest, streams[text : text + exact], streams[text + exact :])
