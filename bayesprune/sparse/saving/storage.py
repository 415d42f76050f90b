"""Storage of one tensor in a file: the smallest of dense, bit mask, CSR and BSR."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

from bayesprune.sparse.formats import BSR, CSR, Format
from bayesprune.sparse.formats.base import check_index
from bayesprune.sparse.formats.block_shapes import block_shapes

__all__ = ["DTYPES", "LARGEST", "PART", "Stored", "plain", "put_blocks", "restore", "store"]

DTYPES: Mapping[str, torch.dtype] = {
    str(d).removeprefix("torch."): d
    for d in (
        *(torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
_LEAST = 64  # entries: below, packing gains nothing
LARGEST = 2**14  # entries of a block that a file may hold
PART = 2**17  # entries that are put in their places at once


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
            sizes[form] = _compressed_bytes(form, there2d, x.element_size())
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
    return halves[:numel].bitwise_xor_(8).view(torch.int8).sub_(8)


def _whole(stored: Stored, parts: tuple[str, ...]) -> list[Tensor]:
    if set(stored.parts) != set(parts):
        raise ValueError(f"stored as {stored.how}, it needs the parts {parts}, got {tuple(stored.parts)}")
    return [stored.parts[part] for part in parts]


def _bits(stored: Stored, numel: int) -> Tensor:
    bits, values = _whole(stored, ("bits", "values"))
    if bits.dtype != torch.uint8 or bits.dim() != 1 or bits.numel() != -(-numel // 8) or values.dim() != 1:
        raise ValueError("the bit mask does not have one bit an entry")
    there = torch.from_numpy(np.unpackbits(bits.numpy(), count=numel)).view(torch.bool)
    kept = int(there.count_nonzero())
    if kept != values.numel():
        raise ValueError(f"the bit mask keeps {kept} entries, but there are {values.numel()} values")
    return values.new_zeros(numel).masked_scatter_(there, values)


def _packed(stored: Stored, numel: int) -> Tensor:
    """What CSR and BSR kept, each block in its place; a part at a time, so that little is held beside the tensor."""
    values, crow, col = _whole(stored, ("values", "crow", "col"))
    sides = (stored.shape[0], numel // stored.shape[0]) if numel else (0, 0)
    h, w = stored.block or (1, 1)
    if h < 1 or w < 1 or h > sides[0] or w > sides[1] or h * w > LARGEST:
        raise ValueError(f"blocks of {stored.block} are larger than the weight's {sides}, or than any file's")
    form = BSR(h, w) if stored.block else CSR()
    check_index(crow, col, len(values), *form.grid(sides))
    if values.dim() != (3 if stored.block else 1) or (stored.block and values.shape[1:] != (w, h)):
        raise ValueError(f"{form} has no values of shape {tuple(values.shape)}")
    x, crow = values.new_zeros(sides), crow.to(torch.int32)
    for start in range(0, len(values), PART):
        part = slice(start, min(start + PART, len(values)))
        row = torch.searchsorted(crow, torch.arange(part.start, part.stop, dtype=torch.int32), right=True) - 1
        put_blocks(x, row, col[part].long(), values[part].view(-1, w, h))
    return x


def put_blocks(
    x: Shaped[Tensor, "out in"], row: Shaped[Tensor, " blocks"], col: Shaped[Tensor, " blocks"], blocks: Tensor
) -> None:
    """Put blocks ``(blocks, w, h)`` into ``x`` at their rows and columns of blocks; what lies beyond it is left out."""
    _, w, h = blocks.shape
    at_once = max(1, PART // (w * h))
    for start in range(0, len(blocks), at_once):
        part = slice(start, start + at_once)
        rows = row[part, None, None] * h + torch.arange(h)
        cols = col[part, None, None] * w + torch.arange(w)[:, None]
        inside = (rows < x.shape[0]) & (cols < x.shape[1])
        x.view(-1)[(rows * x.shape[1] + cols)[inside]] = blocks[part][inside]


def restore(stored: Stored) -> Shaped[Tensor, "..."]:
    """The tensor again. Parts that do not fit together raise ``ValueError`` before anything is unpacked."""
    dtype = DTYPES.get(stored.dtype)
    numel = 1
    for side in stored.shape:
        numel *= side
    if dtype is None or min(stored.shape, default=1) < 0 or (stored.how == "bsr") != (stored.block is not None):
        raise ValueError(f"{stored.dtype} of shape {stored.shape} cannot be stored as {stored.how} of {stored.block}")
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
        x = _packed(stored, numel).reshape(stored.shape)
    else:
        raise ValueError(f"stored as {stored.how!r}, which this version does not know")
    if x.dtype != dtype:
        raise ValueError(f"expected {stored.dtype}, got {str(x.dtype).removeprefix('torch.')}")
    return x.contiguous()
