"""What a file may cost to load: 64 MiB and four times its bytes, whatever it claims, unless the net is known before.

A file of a few kilobytes may honestly tell of a gigabyte of zeros, and none of its bytes says whether it is honest. So
this holds whoever wrote it, and the net that ``load(path, net=…)`` is given, whose size is known, is what lifts it.
"""

from collections.abc import Mapping

from bayesprune.sparse.saving.manifest import TensorEntry

__all__ = ["CLAIMS", "beyond", "held", "most_held"]

CLAIMS = "it claims tensors of "  # so begins what is said of a file that unpacks to too much
_FREE = 56 * 2**20  # bytes that any file's tensors may take; the rest of the 64 MiB is for Python's objects
_A_BYTE = 2  # for each byte of the file; it is held twice itself, as it is read and as the coder's words or tensors
_A_LETTER = 48  # what a letter of the manifest takes as Python's objects, and as the modules that it tells of
# bytes for each entry of one tensor while it is unpacked, by how it is kept
_SCRATCH: Mapping[str, int] = {"dense": 0, "narrow": 0, "csr": 0, "bsr": 0, "bits": 1, "nibbles": 4, "indices": 8}
_CODED, _PLACED, _A_ROW = 5, 8, 5  # a coded one: its symbol; and a place of its own, where it stands alone in a matrix


def most_held(length: int, known: int = 0) -> int:
    """The bytes that what a file of ``length`` unpacks to may take at once, where a net of ``known`` bytes is given.

    >>> most_held(0) < 2**26
    True
    """
    return _FREE + _A_BYTE * length + 2 * known  # packed, a net takes up to twice what it does dense


def held(tensors: Mapping[str, TensorEntry], text: int = 0) -> int:
    """The bytes that unpacking ``tensors``, told of in ``text`` letters, takes at its most."""
    scratch = (_scratch(entry) for entry in tensors.values())
    return sum(entry.nbytes for entry in tensors.values()) + max(scratch, default=0) + _A_LETTER * text


def _scratch(entry: TensorEntry) -> int:
    if entry.how in _SCRATCH:
        rows = entry.shape[0] if entry.how in ("csr", "bsr") and entry.shape else 0
        return entry.numel * _SCRATCH[entry.how] + _A_ROW * rows
    alone = len(entry.shape) > 1 and not entry.block
    return entry.numel * max(_PLACED if alone else _CODED, entry.itemsize)


def beyond(tensors: Mapping[str, TensorEntry], text: int, length: int, known: int | None = None) -> str:
    """Why a file's tensors are not unpacked, in words; empty where they are.

    Args:
        tensors: what the file claims.
        text: the letters of its manifest.
        length: its bytes.
        known: those of the net that it is loaded into, where that was not made from the file.
    """
    wanted = held(tensors, text) if known is None else sum(entry.nbytes for entry in tensors.values())
    if wanted <= most_held(length, known or 0):
        return ""
    claimed = sum(entry.nbytes for entry in tensors.values())
    if known is not None:
        return f"{CLAIMS}{claimed:,} bytes, and the net has {known:,}"
    return (
        f"{CLAIMS}{claimed:,} bytes, more than a file of {length:,} bytes may have unless the net is known: "
        "bp.load(path, net=…) takes a net of yours of that size"
    )
