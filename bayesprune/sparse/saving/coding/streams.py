"""Encode all tensors of a net into two streams, and decode them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.saving.coding.codebook import Codebook
from bayesprune.sparse.saving.coding.container import Inflater, deflated
from bayesprune.sparse.saving.coding.entropy import Reader, Writer
from bayesprune.sparse.saving.coding.indices import read_indices, write_indices
from bayesprune.sparse.saving.coding.tensors import Role, from_planes, planes, read_tensor, write_tensor
from bayesprune.sparse.saving.manifest import FileError, TensorEntry
from bayesprune.sparse.saving.storage import DTYPES
from bayesprune.sparse.surgery.surgery import PackedLayer

__all__ = ["CodedNet", "DecodedNet", "code", "decode"]

_INDEX = "crow", "col"
_MATRIX, _CONVOLUTION = 32, 256  # levels where there is no posterior (Han, Mao & Dally 2016, section 3)


@dataclass(frozen=True)
class CodedNet:
    """The tensors of a net, coded.

    Args:
        how: of each tensor, and its blocks, where it is kept in blocks.
        exact: a stream.
        numbers: a stream.
        nbytes: what each tensor takes of them; of a masked one, its values, and under ``name/col`` their places.
    """

    how: Mapping[str, tuple[str, tuple[int, ...]]]
    exact: bytes
    numbers: bytes
    nbytes: Mapping[str, float]


@dataclass(frozen=True)
class DecodedNet:
    """The tensors of a net again.

    Args:
        tensors: each by its name.
        nbytes: what each took of the file, as in :class:`CodedNet`; the places of a masked one's values included.
    """

    tensors: dict[str, Tensor]
    nbytes: dict[str, float]


def _levels(dimensions: int) -> int:
    return 0 if dimensions < 2 else _MATRIX if dimensions == 2 else _CONVOLUTION


def _prefix(path: str) -> str:
    return f"{path}." if path else ""


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy().astype(np.int64)


def code(
    tensors: Mapping[str, tuple[str, Tensor]],
    layers: Mapping[str, SparseLinear],
    codebook: Codebook,
    variances: Mapping[str, Tensor],
) -> CodedNet:
    """Code a net.

    Args:
        tensors: each parameter and buffer by its first name, and which of the two it is.
        layers: those that run packed, by their first path.
        codebook: how many levels to take.
        variances: of parameters, in their shapes (see :func:`bayesprune.sparse.layers.variances.variances_of`).

    Raises:
        ValueError: indices that do not rise.
    """
    writer = Writer()
    how: dict[str, tuple[str, tuple[int, ...]]] = {}
    bits: dict[str, float] = {}
    roles = {
        n: Role(kind == "parameter", False, _levels(x.dim()), variances.get(n)) for n, (kind, x) in tensors.items()
    }
    for path, layer in layers.items():
        prefix, form = _prefix(path), layer.format
        at = f"{prefix}values"
        roles[at] = Role(
            True, not form.is_dense, _CONVOLUTION if isinstance(layer, SparseConv2d) else _MATRIX, variances.get(at)
        )
        if form.gridded:
            before = writer.bits
            write_indices(writer, form.grid(layer.sparse_weight.shape)[1], _numpy(layer.crow), _numpy(layer.col))
            how |= {f"{prefix}{leaf}": ("indices", ()) for leaf in _INDEX}
            bits[f"{prefix}col"] = writer.bits - before
    exact: dict[str, bytes] = {}
    for name, (_, x) in tensors.items():
        if name in how:
            continue
        before = writer.bits
        coded = write_tensor(writer, x, roles[name], codebook)
        how[name] = coded.how, coded.block
        if coded.how == "exact":
            exact[name] = planes(x)
            continue
        bits[name] = writer.bits - before - coded.index_bits
        if coded.index_bits > 1:
            bits[f"{name}/col"] = coded.index_bits
    whole = b"".join(exact.values())
    small = deflated(whole)
    nbytes = {name: float(n) / 8 for name, n in bits.items()}
    nbytes |= {name: len(data) * len(small) / max(len(whole), 1) for name, data in exact.items()}
    return CodedNet(how, small, writer.data(), nbytes)


def _check_packed(path: str, layer: PackedLayer, tensors: Mapping[str, TensorEntry]) -> tuple[int, int, int] | None:
    """The rows, columns and values of a packed layer's grid; None where no indices are coded for it."""
    form = layer.format
    if not form.gridded:
        return None
    rows, cols = form.grid(layer.shape)
    values, crow, col = (tensors[_prefix(path) + leaf] for leaf in ("values", *_INDEX))
    count = values.shape[0] if values.shape else -1
    expected = (count, *reversed(form.block or ())), (rows + 1,), (count,)
    dtypes = {crow.dtype, col.dtype}
    if (values.shape, crow.shape, col.shape) != expected or not 0 <= count <= rows * cols or dtypes != {"int32"}:
        raise FileError(f"the packed layer {path!r} of {layer.shape} claims values of shape {values.shape}")
    return rows, cols, count


def decode(
    exact: bytes | memoryview,
    numbers: bytes | memoryview,
    tensors: Mapping[str, TensorEntry],
    sparse: Mapping[str, PackedLayer],
) -> DecodedNet:
    """The tensors again, by the names in ``tensors``, which tells how each was coded.

    Raises:
        FileError: the streams do not hold such tensors. No tensor becomes larger than ``tensors`` says.
    """
    found: dict[str, Tensor] = {}
    nbytes: dict[str, float] = {}
    name = "the file"
    try:
        reader = Reader(numbers)
        for path, layer in sparse.items():
            name, prefix = path, _prefix(path)
            grid = _check_packed(path, layer, tensors) if f"{prefix}values" in tensors else None
            if grid is not None:
                before = reader.bits
                index = read_indices(reader, *grid)
                for leaf, i in zip(_INDEX, index, strict=True):
                    found[prefix + leaf] = torch.from_numpy(i).to(torch.int32)
                nbytes[f"{prefix}col"] = (reader.bits - before) / 8
        packed = {f"{_prefix(path)}values" for path, layer in sparse.items() if not layer.format.is_dense}
        whole = sum(entry.nbytes for entry in tensors.values() if entry.how == "exact")
        plain = Inflater(exact)
        for name, entry in tensors.items():
            if (entry.how == "indices") != (name in found):
                raise FileError(f"{name!r} cannot be coded as {entry.how!r}")
            if entry.how == "indices":
                continue
            dtype, before = DTYPES[entry.dtype], reader.bits
            if entry.how == "exact":
                nbytes[name] = entry.nbytes * len(exact) / max(whole, 1)
                found[name] = from_planes(plain.read(entry.nbytes), dtype, entry.shape)
            else:
                found[name] = read_tensor(reader, entry.how, dtype, entry.shape, entry.block, name in packed)
                nbytes[name] = (reader.bits - before) / 8
        plain.check_end()
        reader.check_end()
    except FileError:
        raise
    except (LookupError, ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise FileError(f"{name!r} cannot be decoded: {error}") from error
    return DecodedNet(found, nbytes)
