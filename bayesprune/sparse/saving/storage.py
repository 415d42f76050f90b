"""Storage of one tensor in a file: the smallest of dense, bit mask, CSR and BSR."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

from bayesprune.sparse.formats import BSR, CSR, Format, SparseWeight
from bayesprune.sparse.formats.block_shapes import block_shapes

__all__ = ["DTYPES", "Stored", "plain", "restore", "store"]

DTYPES: Mapping[str, torch.dtype] = {
    str(d).removeprefix("torch."): d
    for d in (
        *(torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
_LEAST = 64  # entries: below, packing gains nothing
_TRUST: Mapping[str, int] = {"values": 1024, "col": 1024, "crow": 8, "bits": 8}  # times the bytes of a part
_MOST_GROWTH = 1024  # a packed tensor may unpack to at most this many times its bytes: no small file fills the memory


@dataclass(frozen=True)
class Stored:
    """A tensor in parts.

    Args:
        how: ``dense``, ``narrow`` (integers in fewer bytes), ``nibbles`` (int8 of four bits, two in a byte), ``bits``,
            ``csr`` or ``bsr``.
        dtype: the tensor's own, as ``"float32"``.
        shape: the tensor's own.
        block: the sides of a block where ``how`` is ``bsr``.
        parts: the tensors that go into the file, by the part they play.
    """

    how: str
    dtype: str
    shape: tuple[int, ...]
    block: tuple[int, int] | None
    parts: Mapping[str, Shaped[Tensor, "..."]]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    @property
    def most_unpacked(self) -> int:
        """What it may be trusted to unpack to: bytes that only say what is not there are trusted least."""
        return sum(_TRUST.get(name, 1) * part.nbytes for name, part in self.parts.items())


def _index_dtype(largest: int) -> torch.dtype:
    return torch.uint8 if largest < 2**8 else torch.int16 if largest < 2**15 else torch.int32


def _narrow(index: Tensor) -> Tensor:
    return index.to(_index_dtype(int(index.max()) if index.numel() else 0))


def _compressed_bytes(form: Format, there: Tensor, itemsize: int) -> int:
    """The bytes that :func:`_packed` will take, without packing."""
    h, w = form.block or (1, 1)
    rows, cols = form.grid((there.shape[0], there.shape[1]))
    four = torch.int32.itemsize
    entries = (form.nbytes(there, itemsize) - (rows + 1) * four) // (h * w * itemsize + four)
    column = _index_dtype(cols - 1).itemsize
    return entries * (h * w * itemsize + column) + (rows + 1) * _index_dtype(entries).itemsize


def plain(x: Shaped[Tensor, "..."]) -> Stored:
    """A tensor as it is."""
    dtype = str(x.dtype).removeprefix("torch.")
    return Stored("dense", dtype, tuple(x.shape), None, {"values": x.detach().cpu().contiguous()})


def store(x: Shaped[Tensor, "..."]) -> Stored:
    """Cut a tensor into the parts that take the fewest bytes. Exact, the sign of a zero included.

    Raises:
        ValueError: a dtype that the file does not know.

    >>> stored = store(torch.eye(64))
    >>> stored.how, stored.nbytes, bool((restore(stored) == torch.eye(64)).all())
    ('csr', 385, True)
    """
    dtype, shape = str(x.dtype).removeprefix("torch."), tuple(x.shape)
    if dtype not in DTYPES:
        raise ValueError(f"the file holds {', '.join(DTYPES)}; got a tensor of {dtype}")
    x = x.detach().cpu().contiguous()
    if x.numel() < _LEAST:
        return plain(x)
    if x.dtype in (torch.int32, torch.int64):
        fits = int(x.min()) >= 0 and int(x.max()) < 2**31
        return Stored("narrow", dtype, shape, None, {"values": _narrow(x)}) if fits else plain(x)
    if x.dtype == torch.int8 and int(x.min()) >= -8 and int(x.max()) < 8:
        return Stored("nibbles", dtype, shape, None, {"values": _nibbles(x)})
    if not x.is_floating_point():
        return plain(x)
    there = x.view(_BITS[x.element_size()]) != 0  # by bits, for −0.0 is not 0.0 here
    kept = int(there.count_nonzero())
    sizes: dict[object, int] = {
        "dense": x.nbytes,
        "bits": -(-x.numel() // 8) + kept * x.element_size(),
    }
    flat, there2d = x.reshape(shape[0], -1), there.reshape(shape[0], -1)
    if kept < x.numel() // 2:
        for form in (CSR(), *block_shapes(there2d)):
            size = _compressed_bytes(form, there2d, x.element_size())
            if x.nbytes <= _MOST_GROWTH * size:
                sizes[form] = size
    best = min(sizes, key=sizes.__getitem__)
    if best == "dense":
        return plain(x)
    if best == "bits":
        bits = torch.from_numpy(np.packbits(there.reshape(-1).numpy()))
        return Stored("bits", dtype, shape, None, {"bits": bits, "values": x[there]})
    assert isinstance(best, Format)
    packed = best.pack(flat, there2d)
    block = best.block
    parts = {"values": packed.values, "crow": _narrow(packed.crow), "col": _narrow(packed.col)}
    return Stored("bsr" if block else "csr", dtype, shape, block, parts)


def _nibbles(x: Tensor) -> Tensor:
    """Two in a byte, the first in the lower half; behind an odd number of them a zero."""
    halves = F.pad(x.flatten().view(torch.uint8) & 15, (0, x.numel() % 2))
    return halves[::2] | halves[1::2] << 4


def _from_nibbles(stored: Stored, numel: int) -> Tensor:
    (x,) = _whole(stored, ("values",))
    if stored.dtype != "int8" or x.dtype != torch.uint8 or x.dim() != 1 or x.numel() != -(-numel // 2):
        raise ValueError(f"{numel} int8 of four bits are half as many bytes, got {x.dtype} of shape {tuple(x.shape)}")
    halves = torch.stack((x & 15, x >> 4), 1).flatten()
    if bool(halves[numel:].any()):
        raise ValueError("behind the last of an odd number of integers stands a zero")
    return (halves[:numel] ^ 8).view(torch.int8) - 8


def _whole(stored: Stored, parts: tuple[str, ...]) -> list[Tensor]:
    if set(stored.parts) != set(parts):
        raise ValueError(f"stored as {stored.how}, it needs the parts {parts}, got {tuple(stored.parts)}")
    return [stored.parts[part] for part in parts]


def _bits(stored: Stored, numel: int) -> Tensor:
    bits, values = _whole(stored, ("bits", "values"))
    if bits.dtype != torch.uint8 or bits.dim() != 1 or bits.numel() != -(-numel // 8) or values.dim() != 1:
        raise ValueError("the bit mask does not have one bit an entry")
    there = torch.from_numpy(np.unpackbits(bits.numpy(), count=numel)).bool()
    kept = int(there.count_nonzero())
    if kept != values.numel():
        raise ValueError(f"the bit mask keeps {kept} entries, but there are {values.numel()} values")
    x = values.new_zeros(numel)
    x[there] = values
    return x


def restore(stored: Stored) -> Shaped[Tensor, "..."]:
    """The tensor again. Parts that do not fit together raise ``ValueError`` before anything is unpacked."""
    dtype = DTYPES.get(stored.dtype)
    numel = 1
    for side in stored.shape:
        numel *= side
    if dtype is None or min(stored.shape, default=1) < 0 or (stored.how == "bsr") != (stored.block is not None):
        raise ValueError(f"{stored.dtype} of shape {stored.shape} cannot be stored as {stored.how} of {stored.block}")
    if numel * dtype.itemsize > _MOST_GROWTH * stored.nbytes:
        raise ValueError(f"claims {numel * dtype.itemsize} bytes, but only {stored.nbytes} are there to unpack")
    if stored.how in ("dense", "narrow"):
        (x,) = _whole(stored, ("values",))
        if tuple(x.shape) != stored.shape:
            raise ValueError(f"expected shape {stored.shape}, got {tuple(x.shape)}")
        x = x.to(dtype) if stored.how == "narrow" and x.dtype in (torch.uint8, torch.int16, torch.int32) else x
    elif stored.how == "nibbles":
        x = _from_nibbles(stored, numel).reshape(stored.shape)
    elif stored.how == "bits":
        x = _bits(stored, numel).reshape(stored.shape)
    elif stored.how in ("csr", "bsr"):
        values, crow, col = _whole(stored, ("values", "crow", "col"))
        sides = (stored.shape[0], numel // max(stored.shape[0], 1)) if stored.shape else (0, 0)
        if any(side > max(length, 1) for side, length in zip(stored.block or (), sides, strict=False)):
            raise ValueError(f"blocks of {stored.block} are larger than the weight's {sides}")
        form = BSR(*stored.block) if stored.block else CSR()
        packed = SparseWeight(form, sides, values, crow.to(torch.int32), col.to(torch.int32))
        form.check(packed)
        x = packed.dense().reshape(stored.shape)
    else:
        raise ValueError(f"stored as {stored.how!r}, which this version does not know")
    if x.dtype != dtype:
        raise ValueError(f"expected {stored.dtype}, got {str(x.dtype).removeprefix('torch.')}")
    return x.contiguous()
