"""Base class of formats: how a masked weight is stored in plain buffers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int32, Shaped
from torch import Tensor

from bayesprune.sparse.activations import ACTIVATIONS

__all__ = ["Format", "Operands", "Packed", "SparseWeight"]

_INDEX = (torch.int32, torch.uint8, torch.int16)  # of an index as it runs, and as it lies in a file
_CHUNK = 2**20  # entries that packing works on at a time: a large weight is never held twice


class Format(ABC):
    """How a masked weight lies in plain buffers. Formats are frozen values: equal when written the same.

    A subclass says what it is in the attributes below; nothing else asks which subclass it is. What it writes in
    ``pack`` it reads in ``unpack`` and ``gather``: with these three the reference kernel multiplies by it, gradients
    included. Kernels of their own run what they know by ``block``, ``gridded`` and ``of_inputs``.
    """

    is_dense: ClassVar[bool] = False  # the weight lies as it is: it stays in its own module, which multiplies
    gridded: ClassVar[bool] = False  # ``crow`` and ``col`` say where in a grid (see ``grid``) each entry or block lies
    quantisable: ClassVar[bool] = False  # it has a field ``bits`` for integers with a scale per output
    convolves: ClassVar[bool] = False  # it may be the matrix of a convolution
    of_inputs: ClassVar[tuple[int, int] | None] = None  # (n, m) where n of every m inputs in a row are stored

    @property
    def block(self) -> tuple[int, int] | None:
        """The outputs and inputs of a block, whose values are ``(nnz, inputs, outputs)``; None where it has none."""
        return None

    @property
    def buffers(self) -> tuple[str, ...]:
        """The names of the buffers that a weight has: with integers, the scale is one."""
        return ("values", "crow", "col", *(("scale",) if getattr(self, "bits", None) else ()))

    def grid(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The rows and columns of blocks, or of entries, of a weight of that shape."""
        h, w = self.block or (1, 1)
        return -(-shape[0] // h), -(-shape[1] // w)

    def pack(self, weight: Tensor, mask: Tensor, variance: Tensor | None = None) -> "SparseWeight":
        """Pack ``weight * mask``, both ``(out, in)``. What the mask keeps is stored, were it zero.

        ``variance``, of the same shape, is how uncertain each weight is: where it is large, a rounding error counts
        for little. Formats that do not round take no notice of it.

        Raises:
            ValueError: they are no floating-point matrix and bool mask of one shape, on one device that holds values,
                or the format cannot hold the mask; a variance of another shape or device, below 0 or NaN.
        """
        if weight.dim() != 2 or not weight.is_floating_point():
            raise ValueError(
                f"a floating-point matrix (out, in) can be packed, got {weight.dtype} of shape {tuple(weight.shape)}"
            )
        if mask.dtype != torch.bool or mask.shape != weight.shape:
            raise ValueError(
                f"the mask must be bool in the weight's shape {tuple(weight.shape)}, got {mask.dtype} of shape "
                f"{tuple(mask.shape)}"
            )
        if mask.device != weight.device or weight.is_meta:
            raise ValueError(
                f"weight and mask must be on one device and hold values, got {weight.device} and {mask.device}"
            )
        why = self.refusal(mask)
        if why is not None:
            raise ValueError(why)
        if variance is not None:
            if variance.shape != weight.shape or variance.device != weight.device or not variance.is_floating_point():
                raise ValueError(
                    f"the variance must be floating-point in the weight's shape {tuple(weight.shape)} and on "
                    f"{weight.device}, got {variance.dtype} of shape {tuple(variance.shape)} on {variance.device}"
                )
            if not bool((variance >= 0).all()):
                raise ValueError("a variance is at least 0, this one holds a negative number or NaN")
        return self._pack(weight, mask, variance)

    def refusal(self, mask: Bool[Tensor, "out in"]) -> str | None:
        """Why this mask cannot be packed so, in words; None where it can."""
        return None

    @abstractmethod
    def _pack(
        self, weight: Float[Tensor, "out in"], mask: Bool[Tensor, "out in"], variance: Float[Tensor, "out in"] | None
    ) -> "SparseWeight":
        """:meth:`pack`, once its operands are checked."""

    @abstractmethod
    def unpack(
        self, values: Shaped[Tensor, "..."], crow: Tensor, col: Tensor, shape: tuple[int, int]
    ) -> Shaped[Tensor, "out in"]:
        """The dense weight again, before any scale: nothing but torch, of any dtype on any device, differentiable."""

    @abstractmethod
    def gather(self, dense: Shaped[Tensor, "out in"], crow: Tensor, col: Tensor) -> Shaped[Tensor, "..."]:
        """The entries of ``dense`` at the stored places, as the values have them; 0 in padding. Differentiable."""

    @abstractmethod
    def to_torch(self, packed: "Packed") -> Tensor:
        """torch's own tensor over the same memory. Raises ``ValueError`` where torch cannot hold it."""

    @abstractmethod
    def check(self, packed: "SparseWeight") -> None:
        """Raise ``ValueError`` where the buffers would make a kernel read memory that is not theirs."""

    @abstractmethod
    def nbytes(self, mask: Bool[Tensor, "out in"], itemsize: int) -> int:
        """The bytes of the values and indices, before packing."""

    def in_bits(self, bits: int) -> "Format":
        """The same with integers of so many bits, where it is ``quantisable``."""
        return replace(self, bits=bits)  # type: ignore[type-var]

    def __str__(self) -> str:
        given = asdict(self)  # type: ignore[call-overload]
        bits = given.pop("bits", None)
        sizes = ", ".join([*map(str, given.values()), *([f"bits={bits}"] if bits else [])])
        return f"{type(self).__name__}({sizes})" if sizes else type(self).__name__

    def __repr__(self) -> str:
        return f"{self}" if "(" in f"{self}" else f"{self}()"


@dataclass(frozen=True, eq=False)
class SparseWeight:
    """A masked weight ``(out, in)`` in plain buffers: ``values``, and the int32 indices ``crow`` and ``col``.

    ``values`` is ``(nnz,)`` for CSR, ``(nnz, w, h)`` for BSR, which keeps each block input by input, ``(out, in / 2)``
    for semi-structured, and ``(out, in)`` for dense, which has no indices. Where values are integers, ``scale`` holds
    what 1 stands for, output by output.

    >>> from bayesprune.sparse import CSR
    >>> CSR().pack(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[True, False], [True, True]])).col
    tensor([0, 0, 1], dtype=torch.int32)
    """

    format: Format
    shape: tuple[int, int]
    values: Shaped[Tensor, "..."]
    crow: Int32[Tensor, " rows"]
    col: Int32[Tensor, " nnz"]
    scale: Float[Tensor, " out"] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the values, indices and scales."""
        return sum(t.nbytes for t in (self.values, self.crow, self.col, self.scale) if t is not None)

    def dense(self) -> Shaped[Tensor, "out in"]:
        """The dense weight; differentiable in ``values``."""
        dense = self.format.unpack(self.values, self.crow, self.col, self.shape)
        return dense if self.scale is None else dense.to(self.scale.dtype) * self.scale[:, None]

    def linear(
        self, x: Shaped[Tensor, "..."], bias: Tensor | None = None, kernel: str = "reference", activation: str = ""
    ) -> Shaped[Tensor, "..."]:
        """``activation(x @ weight.T + bias)`` by the kernel of that name."""
        if self.format.is_dense:
            return ACTIVATIONS[activation](F.linear(x, self.values, bias))
        return torch.ops.bayesprune.sparse_linear(
            x, self.values, self.crow, self.col, bias, self.scale, *self.shape, str(self.format), kernel, activation
        )

    def operands(self, bias: Tensor | None = None, activation: str = "") -> "Operands":
        """What a kernel multiplies x by."""
        return Operands(self.values, self.crow, self.col, bias, self.scale, self.shape, activation, self.format)

    def to_torch(self) -> Tensor:
        """torch's own sparse tensor over the same memory. Raises ``ValueError`` where torch cannot hold it."""
        return self.format.to_torch(self)


class Operands(NamedTuple):
    """All but x of a product: the plain buffers of a packed weight ``(out, in)``, and what is done to the sums."""

    values: Tensor
    crow: Tensor
    col: Tensor
    bias: Tensor | None
    scale: Tensor | None
    shape: tuple[int, int]
    activation: str
    format: Format


Packed: TypeAlias = SparseWeight | Operands  # what has a format, a shape and buffers


def slices(rows: int, width: int) -> Iterator[slice]:
    """The rows of a grid of that width, so many at a time that what is worked out of them stays small."""
    step = max(1, _CHUNK // max(width, 1))
    return (slice(row, min(row + step, rows)) for row in range(0, rows, step))


def crow_and_col(there: Bool[Tensor, "rows cols"]) -> tuple[Int32[Tensor, " rows+1"], Int32[Tensor, " nnz"]]:
    """``(crow, col)`` of the places that are there."""
    ends = torch.zeros(there.shape[0] + 1, dtype=torch.int64, device=there.device)
    for part in slices(*there.shape):
        ends[1:][part] = there[part].count_nonzero(1)
    ends = ends.cumsum(0)
    nnz = int(ends[-1])
    if nnz >= 2**31:
        raise ValueError(f"a packed weight holds at most 2³¹ − 1 entries or blocks, got {nnz}; take larger blocks")
    crow, col = ends.to(torch.int32), torch.empty(nnz, dtype=torch.int32, device=there.device)
    for part in slices(*there.shape):
        col[int(crow[part.start]) : int(crow[part.stop])] = there[part].nonzero()[:, 1]
    return crow, col


def check_crow_and_col(packed: SparseWeight, rows: int, cols: int) -> None:
    """Raise ``ValueError`` unless ``crow`` and ``col`` describe a grid of ``rows`` × ``cols``."""
    for what, index in (("crow", packed.crow), ("col", packed.col)):
        if index.dtype != torch.int32:
            raise ValueError(f"{what} must be an int32 vector, got {index.dtype} of shape {tuple(index.shape)}")
    check_index(packed.crow, packed.col, packed.values.shape[0], rows, cols)


def check_index(crow: Tensor, col: Tensor, nnz: int, rows: int, cols: int) -> None:
    """Raise ``ValueError`` unless integers ``crow`` and ``col`` say where ``nnz`` entries lie in such a grid."""
    for what, index in (("crow", crow), ("col", col)):
        if index.dtype not in _INDEX or index.dim() != 1:
            raise ValueError(f"{what} must be a vector of integers, got {index.dtype} of shape {tuple(index.shape)}")
    if crow.numel() != rows + 1:
        raise ValueError(f"crow must have {rows + 1} entries for {rows} rows, got {crow.numel()}")
    if col.numel() != nnz:
        raise ValueError(f"col must have one entry for each of the {nnz} values or blocks, got {col.numel()}")
    if int(crow[0]) != 0 or int(crow[-1]) != nnz or bool((crow[1:] < crow[:-1]).any()):
        raise ValueError(f"crow must rise from 0 to {nnz} and never fall")
    if nnz and (int(col.min()) < 0 or int(col.max()) >= cols):
        raise ValueError(f"col must lie in [0, {cols}), got {int(col.min())} to {int(col.max())}")
