"""The backward pass in Triton: kernels for the gradients of x and of the stored values."""

from typing import NamedTuple, no_type_check

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from bayesprune.sparse.buffers.rows import rows_of
from bayesprune.sparse.formats import Operands
from bayesprune.sparse.gpu.devices import interpreted
from bayesprune.sparse.gpu.launch import Launch, precision_of
from bayesprune.sparse.gpu.tuning import limits, power
from bayesprune.sparse.gpu.walk import inputs_of

__all__ = ["Transposed", "grad_values", "grad_x", "pass_of_values", "pass_of_x", "pays", "transposed"]

_DENSE = 4  # how many times as much a dense product does in the same time: an assumption
_VECTOR = 16  # bytes that one thread loads at best
_WIDEST = 64  # inputs or entries that a program takes
_PROGRAMS = 2  # a multiprocessor, at least, before the tokens are cut in parts


class Transposed(NamedTuple):
    """The stored blocks by block column: those of column c are ``block[first[c]:first[c + 1]]``, in ``row``'s rows."""

    first: Tensor
    block: Tensor
    row: Tensor


@triton.jit
@no_type_check
def _outputs_of(index, entry, end, PITCH: tl.constexpr, H: tl.constexpr, STEP: tl.constexpr):
    """``PITCH · index + place in the block`` of the ``STEP`` outputs from ``entry`` on, down the blocks of a column."""
    step = tl.arange(0, STEP)
    if H % STEP == 0:  # within one block
        at = tl.load(index + entry // H, mask=entry < end, other=0) * PITCH + entry % H + step
        at = tl.max_contiguous(tl.multiple_of(at, STEP), STEP)
    else:
        place = entry + step
        at = tl.load(index + place // H, mask=place < end, other=0) * PITCH + place % H
    return at


@triton.jit(do_not_specialize=["tokens"])
@no_type_check
def into_x(
    grad,
    values,
    first,
    block,
    row,
    y,
    tokens,
    inputs,
    outputs,
    columns,
    grad_token,
    grad_output,
    H: tl.constexpr,
    W: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """``y = grad @ weight`` for grad ``(tokens, outputs)``, block column by block column.

    The stored blocks of block column c are ``block[first[c]:first[c + 1]]``, and ``row`` has the block row of each. A
    program takes ``TILE`` tokens and ``WIDE`` inputs of one block column, ``STEP`` outputs at a time; ``EVEN`` says
    that the height divides the outputs.
    """
    program = tl.program_id(0)
    parts: tl.constexpr = (W + WIDE - 1) // WIDE
    column = program % columns
    across = program // columns % parts * WIDE + tl.arange(0, WIDE)
    token = program // (columns * parts) * TILE + tl.arange(0, TILE)
    start = tl.load(first + column)
    entries = (tl.load(first + column + 1) - start) * H
    block += start
    row += start
    step = tl.arange(0, STEP)
    grad_rows = grad + token[:, None].to(tl.int64) * grad_token
    sums = tl.zeros((TILE, WIDE), dtype=tl.float32)
    source, at = _outputs_of(row, 0, entries, H, H, STEP), _outputs_of(block, 0, entries, W * H, H, STEP)
    for entry in range(0, entries, STEP):
        ahead = entry + STEP  # loads that wait for no other are pipelined
        next_source = _outputs_of(row, ahead, entries, H, H, STEP)
        next_at = _outputs_of(block, ahead, entries, W * H, H, STEP)
        there, stored = token[:, None] < tokens, across[None, :] < W
        if H % STEP != 0:
            live = entry + step < entries
            there, stored = there & live[None, :], stored & live[:, None]
        if not EVEN:
            there = there & (source < outputs)[None, :]
        left = tl.load(grad_rows + source[None, :].to(tl.int64) * grad_output, mask=there, other=0.0)
        right = tl.load(values + at[:, None] + across[None, :] * H, mask=stored, other=0)
        if UPCAST:
            left, right = left.to(tl.float32), right.to(tl.float32)
        else:
            right = right.to(left.dtype)
        sums = tl.dot(left, right, sums, input_precision=PRECISION)
        source, at = next_source, next_at
    place = column * W + across
    inside = (token < tokens)[:, None] & ((across < W) & (place < inputs))[None, :]
    tl.store(y + token[:, None].to(tl.int64) * inputs + place[None, :], sums.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens"])
@no_type_check
def into_values(
    grad,
    x,
    crow,
    col,
    chunks,
    y,
    tokens,
    inputs,
    outputs,
    rows,
    most,
    size,
    grad_token,
    grad_output,
    x_token,
    x_input,
    H: tl.constexpr,
    W: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    SPLIT: tl.constexpr,
    ROUNDS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """``y = x.T @ grad`` at the stored places: partial sums ``(SPLIT, size)``, each over its share of the tokens.

    An entry is one input of one stored block, with the block's ``H`` outputs. A program takes ``STEP`` entries of one
    block row, ``TILE`` tokens at a time; block row r has the programs ``chunks[r]`` to ``chunks[r + 1]``, which is
    found in ``ROUNDS`` halvings, and ``most`` is no less than there are. ``WIDE`` is H as a power of two.
    """
    part = tl.program_id(0) // most
    program = tl.program_id(0) % most
    if program >= tl.load(chunks + rows):
        return
    row, beyond = 0, rows
    for _ in range(ROUNDS):
        middle = (row + beyond) // 2
        before = tl.load(chunks + middle) <= program
        row, beyond = tl.where(before, middle, row), tl.where(before, beyond, middle)
    block = tl.load(crow + row)
    entries = (tl.load(crow + row + 1) - block) * W
    entry = (program - tl.load(chunks + row)) * STEP
    step = tl.arange(0, STEP)
    output = tl.arange(0, WIDE)
    live = entry + step < entries
    source = inputs_of(col + block, entry, entries, W, STEP)
    place = row * H + output
    known = live & (source < inputs)
    kept = (output < H) & (place < outputs)
    share = tl.cdiv(tl.cdiv(tokens, TILE), SPLIT) * TILE
    token = part * share + tl.arange(0, TILE)
    left_at = x + source[:, None].to(tl.int64) * x_input + token[None, :].to(tl.int64) * x_token
    right_at = grad + token[:, None].to(tl.int64) * grad_token + place[None, :].to(tl.int64) * grad_output
    sums = tl.zeros((STEP, WIDE), dtype=tl.float32)
    for _ in range(0, share, TILE):
        left = tl.load(left_at, mask=known[:, None] & (token < tokens)[None, :], other=0.0)
        right = tl.load(right_at, mask=kept[None, :] & (token < tokens)[:, None], other=0.0)
        left_at += TILE * x_token
        right_at += TILE * grad_token
        token += TILE
        if UPCAST:
            left, right = left.to(tl.float32), right.to(tl.float32)
        sums = tl.dot(left, right, sums, input_precision=PRECISION)
    target = part.to(tl.int64) * size + (block.to(tl.int64) * W + entry + step)[:, None] * H + output[None, :]
    tl.store(y + target, sums.to(y.dtype.element_ty), mask=live[:, None] & (output < H)[None, :])


def transposed(crow: Tensor, col: Tensor, columns: int) -> Transposed:
    """The index by block column, worked out on the device and not waited for; the same each time.

    >>> transposed(torch.tensor([0, 2, 3]), torch.tensor([0, 2, 2]), 3)
    Transposed(first=tensor([0, 1, 1, 3], dtype=torch.int32), block=tensor([0, 1, 2]), row=tensor([0, 0, 1]))
    """
    ordered, block = torch.sort(col, stable=True)
    bounds = torch.arange(columns + 1, dtype=col.dtype, device=col.device)
    return Transposed(torch.searchsorted(ordered, bounds, out_int32=True), block, rows_of(crow, col)[block])


def pays(weight: Operands, into: str) -> bool:
    """Whether the gradient ``into`` ``"x"`` or ``"values"`` is likely faster so than by a dense product.

    Blocks are padded to what the matrix instructions take: in the gradient of x, sixteen inputs at least.
    """
    nnz, w, h = weight.values.shape
    padded = nnz * h * -(-w // min(power(w), _WIDEST)) * max(min(power(w), _WIDEST), 16)
    if into == "values":
        padded = nnz * w * power(h)
    return padded * _DENSE <= weight.shape[0] * weight.shape[1]


def _tile(tokens: int) -> int:
    return min(max(power(tokens), 16), 128)


class Pass(NamedTuple):
    """A kernel and what it is called with: see :class:`~bayesprune.sparse.gpu.launch.Launch`."""

    launch: Launch
    programs: int
    tensors: tuple[Tensor, ...]
    numbers: tuple[int, ...]


def pass_of_x(grad: Tensor, weight: Operands) -> Pass:
    """What makes the gradient of x, ``(tokens, inputs)``, which is the last of its tensors."""
    values, crow, col, _, _, (outputs, inputs), *_ = weight
    tokens, (_, w, h) = grad.shape[0], values.shape
    columns, wide, tile = -(-inputs // w), min(max(power(w), 16), _WIDEST), _tile(tokens)
    step = 128 // grad.itemsize
    step = step if h % step == 0 else 32 if h % 32 == 0 else 16
    constants = {
        "H": h,
        "W": w,
        "WIDE": wide,
        "TILE": tile,
        "STEP": step,
        "EVEN": outputs % h == 0,
        "PRECISION": precision_of(grad.dtype),
        "UPCAST": interpreted(),
    }
    launch = Launch(into_x, constants, 8 if tile * wide >= 128 * 64 else 4, 3)
    programs = columns * -(-w // wide) * -(-tokens // tile)
    tensors = (grad, values.contiguous(), *transposed(crow, col, columns), grad.new_empty(tokens, inputs))
    return Pass(launch, programs, tensors, (tokens, inputs, outputs, columns, *grad.stride()))


def pass_of_values(grad: Tensor, x: Tensor, weight: Operands) -> Pass:
    """What makes the gradient of the values, in parts ``(parts, nnz, w, h)``, which are the last of its tensors."""
    values, crow, col, _, _, (outputs, inputs), *_ = weight
    tokens, (nnz, w, h) = x.shape[0], values.shape
    rows = crow.numel() - 1
    step = min(max(power(nnz * w // rows), 16), _WIDEST)
    if w * x.itemsize < _VECTOR:
        x = x.T.contiguous().T  # what is gathered is then runs of tokens
    chunks = F.pad(((crow.diff() * w + step - 1) // step).cumsum(0, dtype=torch.int32), (1, 0))
    most = (nnz * w + rows * (step - 1)) // step  # as many as there may be: the count is on the device
    tile = min(_tile(tokens), 64)
    split = max(1, min(_PROGRAMS * limits(x.device)[1] // most, tokens // (8 * tile), 16))
    constants = {
        "H": h,
        "W": w,
        "WIDE": max(power(h), 16),
        "TILE": tile,
        "STEP": step,
        "SPLIT": split,
        "ROUNDS": rows.bit_length(),
        "PRECISION": precision_of(x.dtype),
        "UPCAST": interpreted(),
    }
    y = x.new_empty((split, *values.shape), dtype=x.dtype if split == 1 else torch.float32)
    numbers = (tokens, inputs, outputs, rows, most, values.numel(), *grad.stride(), *x.stride())
    return Pass(Launch(into_values, constants, 4, 3), most * split, (grad, x, crow, col, chunks, y), numbers)


def _run(made: Pass) -> Tensor:
    with torch.cuda.device_of(made.tensors[0]):
        made.launch(made.programs, made.tensors, made.numbers)
    return made.tensors[-1]


def grad_x(grad: Tensor, weight: Operands) -> Tensor:
    """The gradient of x, ``(tokens, inputs)``, from that of ``x @ weight.T``, ``(tokens, outputs)``."""
    return _run(pass_of_x(grad if weight.scale is None else grad * weight.scale.to(grad.dtype), weight))


def grad_values(grad: Tensor, x: Tensor, weight: Operands) -> Tensor:
    """The gradient of the values, ``(nnz, w, h)``, from that of ``x @ weight.T``; 0 beyond the weight's edge."""
    parts = _run(pass_of_values(grad, x, weight))
    return parts[0] if len(parts) == 1 else parts.sum(0).to(x.dtype)
