"""Encode a tensor as integers to code, and decode it."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayesprune.sparse.formats import BSR, CSR, SparseWeight
from bayesprune.sparse.saving.coding.codebook import Codebook, Levels, levels_of
from bayesprune.sparse.saving.coding.entropy import Reader, Writer
from bayesprune.sparse.saving.coding.indices import read_places, write_indices
from bayesprune.sparse.saving.storage import LARGEST, PART, put_blocks, store

__all__ = ["Coded", "Role", "from_planes", "planes", "read_tensor", "write_tensor"]

_BYTES = torch.int8, torch.uint8
_HALVES = torch.float16, torch.bfloat16
_NEAR = 2.0**-11, 2.0**-20  # what rounding to halves may change: of a value, and of the largest
_MOST = 2**16  # entries of a codebook

Parts = Iterator[tuple[slice, Tensor]]  # of a tensor's values, in order, and where each belongs


@dataclass(frozen=True)
class Role:
    """What a tensor is to its net.

    Args:
        parameter: whether it is one, and may be rounded; a buffer may not.
        packed: whether it holds a packed layer's values, whose places are told elsewhere.
        levels: how many it takes, where neither a posterior nor the user tells; 0 for a vector, which takes none.
        variances: its posterior's, of its shape.
    """

    parameter: bool
    packed: bool
    levels: int
    variances: Tensor | None = None


@dataclass(frozen=True)
class Coded:
    """How a tensor was coded.

    Args:
        how: ``levels``, parameters that share the entries of a codebook; ``halves``, parameters in 16 bits each;
            ``bytes``, integers of 8 bits; or ``exact``, anything else.
        block: the sides of the blocks that are left of a masked weight, where it is kept so.
        index_bits: what the places of its values took.
    """

    how: str
    block: tuple[int, ...] = ()
    index_bits: float = 0.0


def _numbers(x: Tensor) -> NDArray[np.int64]:
    return x.numpy().astype(np.int64)


def _indexed(x: Tensor, variances: Tensor | None) -> tuple[SparseWeight, Tensor | None] | None:
    """A masked dense weight and its variances packed, where its zeros are worth it."""
    stored = store(x)
    if stored.how not in ("csr", "bsr", "bits"):
        return None
    form = BSR(*stored.block) if stored.block else CSR()
    matrix = x.reshape(x.shape[0], -1)
    packed = form.pack(matrix, matrix != 0)
    if variances is not None:
        variances = form.gather(variances.reshape(matrix.shape), packed.crow, packed.col)
    return packed, variances


def _write_levels(writer: Writer, values: Tensor, levels: Levels) -> None:
    entries = levels.entries
    half = entries.to(torch.float16)
    narrow = values.dtype not in _HALVES and bool((half.to(entries.dtype) == entries).all())
    zero = int((values == 0).any())
    writer.number(len(entries), _MOST)
    writer.number(zero, 1)
    writer.number(int(narrow), 1)
    writer.uniform(_words(half if narrow else entries), 2**16)
    symbols = np.zeros(values.numel(), dtype=np.int64)
    symbols[(values != 0).flatten().numpy()] = levels.which + zero
    writer.symbols(symbols, len(entries) + zero)


def _read_levels(reader: Reader, count: int, dtype: torch.dtype) -> Parts:
    size, zero, narrow = reader.number(_MOST), reader.number(1), reader.number(1)
    kind = torch.float16 if narrow else dtype
    entries = _from_words(reader.uniform(size * kind.itemsize // 2, 2**16).astype(np.uint16), kind).to(dtype)
    entries = torch.cat([entries.new_zeros(zero), entries])
    for part, symbols in reader.symbols_by_parts(count, len(entries)):
        yield part, entries.index_select(0, torch.from_numpy(symbols).to(torch.int32))


def _words(x: Tensor) -> NDArray[np.int64]:
    return np.frombuffer(x.flatten().view(torch.uint8).numpy().tobytes(), "<u2").astype(np.int64)


def _from_words(words: NDArray[np.uint16], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(words.view(np.uint8)).view(dtype) if len(words) else torch.empty(0, dtype=dtype)


def _halves(values: Tensor) -> Tensor | None:
    """Two bytes a value; None where that would be too far off."""
    if values.dtype in _HALVES:
        return values
    half = values.to(torch.float16)
    if not values.numel():
        return half
    size = values.abs()
    near = size * _NEAR[0] + size.max() * _NEAR[1]
    return half if bool(((half.to(values.dtype) - values).abs() <= near).all()) else None


def _write_halves(writer: Writer, half: Tensor) -> None:
    words = _words(half)
    high = words >> 8
    writer.symbols(high << 1 & 255 | high >> 7, 256)  # the sign last: what is as large lies together
    writer.uniform(words & 255, 256)


def _read_halves(reader: Reader, count: int, dtype: torch.dtype) -> Parts:
    high = reader.symbols(count, 256)
    for start in range(0, count, PART):
        part = slice(start, min(start + PART, count))
        low = reader.uniform(part.stop - part.start, 256)
        words = ((high[part] >> 1 | (high[part] & 1) << 7).astype(np.uint16) << 8 | low).astype(np.uint16, copy=False)
        yield part, _from_words(words, dtype if dtype in _HALVES else torch.float16).to(dtype)


def write_tensor(writer: Writer, x: Tensor, role: Role, codebook: Codebook) -> Coded:
    """Code a tensor. What comes back as ``exact`` is not written here."""
    x = x.detach().cpu().contiguous()
    if x.dtype in _BYTES and x.numel():
        writer.symbols(_numbers(x.flatten()) + (128 if x.dtype == torch.int8 else 0), 256)
        return Coded("bytes")
    if not (role.parameter and x.is_floating_point() and x.numel() and x.itemsize > 1):
        return Coded("exact")
    found = None if role.packed else _indexed(x, role.variances)
    values, variances = (x, role.variances) if found is None else (found[0].values, found[1])
    there = values != 0
    spread = None if variances is None else variances[there].double().numpy()
    levels = levels_of(values[there].double().numpy(), spread, x.dtype, codebook, role.levels)
    half = _halves(values)
    if levels is None and half is None:
        return Coded("exact")
    before = writer.bits
    if not role.packed:
        writer.number(int(found is not None), 1)
    block: tuple[int, ...] = ()
    if found is not None:
        form = found[0].format
        rows, cols = form.grid(found[0].shape)
        writer.number(len(values), rows * cols)
        write_indices(writer, cols, _numbers(found[0].crow), _numbers(found[0].col))
        block = form.block or ()
    index_bits = writer.bits - before
    if levels is not None:
        _write_levels(writer, values, levels)
        return Coded("levels", block, index_bits)
    assert half is not None
    _write_halves(writer, half)
    return Coded("halves", block, index_bits)


def read_tensor(
    reader: Reader, how: str, dtype: torch.dtype, shape: tuple[int, ...], block: tuple[int, ...], packed: bool
) -> Tensor:
    """What :func:`write_tensor` wrote. Raises ``ValueError`` where that cannot be."""
    count = prod(shape)
    if how == "bytes" and dtype in _BYTES:
        found = torch.from_numpy(reader.symbols(count, 256))
        return (found if dtype == torch.uint8 else (found ^ 128).view(torch.int8)).reshape(shape)
    if how not in ("levels", "halves") or not dtype.is_floating_point:
        raise ValueError(f"{dtype} cannot be coded as {how!r}")
    read = _read_levels if how == "levels" else _read_halves
    if packed or not reader.number(1):
        flat = torch.empty(count, dtype=dtype)
        for part, values in read(reader, count, dtype):
            flat[part] = values
        return flat.reshape(shape)
    sides = shape[0], prod(shape[1:])
    form = BSR(*block) if block else CSR()
    if any(side > length for side, length in zip(block, sides, strict=False)):
        raise ValueError(f"blocks of {block} are larger than the weight's {sides}")
    rows, cols = form.grid(sides)
    stored, (h, w) = reader.number(rows * cols), block or (1, 1)
    if h * w > LARGEST:
        raise ValueError(f"blocks of {block} are larger than any file's")
    places = torch.from_numpy(read_places(reader, rows, cols, stored))
    dense = torch.zeros(sides, dtype=dtype)
    left = torch.empty(0, dtype=dtype)  # of a block that the last part holds the beginning of
    done = 0
    for _, values in read(reader, stored * h * w, dtype):
        left = torch.cat([left, values])
        whole = len(left) // (h * w)
        at = places[done : done + whole].long()
        put_blocks(dense, at // max(cols, 1), at % max(cols, 1), left[: whole * h * w].view(-1, w, h))
        done, left = done + whole, left[whole * h * w :]
    return dense.reshape(shape)


def planes(x: Tensor) -> bytes:
    """The bytes of a tensor, all first ones first."""
    flat = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.view(-1, x.itemsize).T.contiguous().numpy().tobytes()


def from_planes(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The inverse of :func:`planes`."""
    if not data:
        return torch.empty(shape, dtype=dtype)
    flat = np.frombuffer(data, dtype=np.uint8).reshape(dtype.itemsize, -1).T.copy()
    return torch.from_numpy(flat.reshape(-1)).view(dtype).reshape(shape)
