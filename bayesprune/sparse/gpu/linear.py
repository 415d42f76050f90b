"""The Triton product for many tokens: tiles of tokens by block rows, on the tensor cores."""

from typing import no_type_check

import triton
import triton.language as tl

from bayesprune.sparse.gpu.epilogue import write
from bayesprune.sparse.gpu.walk import inputs_of, part_of_row

__all__ = ["product", "turn"]


@triton.jit(do_not_specialize=["tokens"])
@no_type_check
def product(
    x,
    values,
    crow,
    col,
    bias,
    scale,
    y,
    tokens,
    readable,
    inputs,
    outputs,
    rows,
    x_token,
    x_input,
    H: tl.constexpr,
    W: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    STEP: tl.constexpr,
    SPLIT: tl.constexpr,
    EVEN: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """``y = activation(x @ weight.T * scale + bias)``, or partial sums ``(SPLIT, tokens, outputs)`` in float32.

    x is ``(tokens, inputs)`` with the strides ``x_token`` and ``x_input``; ``readable`` tokens of it may be read, of
    which those past ``tokens`` play no part. Tokens lie on the M axis of the matrix instructions: a stored block
    ``(w, h)`` is their (K, N) operand as it lies in memory, and tiles of 64 tokens get wgmma whatever the block's
    height. A program takes ``TILE`` tokens and one block row, ``STEP`` entries at a time. ``WIDE`` is H as a power of
    two; ``EVEN`` says that w divides the inputs. ``UPCAST`` is for the interpreter, whose products of bfloat16 fail.
    """
    program = tl.program_id(0)
    row = program % rows
    part = program // rows % SPLIT
    token = program // (rows * SPLIT) * TILE + tl.arange(0, TILE)
    output = tl.arange(0, WIDE)
    block, first, end = part_of_row(crow, row, part, W, STEP, SPLIT)
    cols = col + block
    step = tl.arange(0, STEP)
    value = values + (block.to(tl.int64) * W + first) * H + step[:, None] * H + output[None, :]
    source_rows = x + token[:, None].to(tl.int64) * x_token
    sums = tl.zeros((TILE, WIDE), dtype=tl.float32)
    source = inputs_of(cols, first, end, W, STEP)
    for entry in range(first, end, STEP):
        coming = inputs_of(cols, entry + STEP, end, W, STEP)  # ahead: loads that wait for no other are pipelined
        there, stored = token[:, None] < readable, output[None, :] < H
        if W % STEP != 0:
            live = entry + step < end
            there, stored = there & live[None, :], stored & live[:, None]
        if not EVEN:
            there = there & (source < inputs)[None, :]
        left = tl.load(source_rows + source[None, :].to(tl.int64) * x_input, mask=there, other=0.0)
        right = tl.load(value) if W % STEP == 0 and H == WIDE else tl.load(value, mask=stored, other=0)
        value += STEP * H
        if UPCAST:
            left, right = left.to(tl.float32), right.to(tl.float32)
        else:
            right = right.to(left.dtype)
        sums = tl.dot(left, right, sums, input_precision=PRECISION)
        source = coming
    write(y, sums, token, tokens, row, output, outputs, part, bias, scale, H, SPLIT, ACTIVATION)


@triton.jit(do_not_specialize=["tokens"])
@no_type_check
def turn(x, turned, tokens, inputs, x_token, x_input, padded, TILE: tl.constexpr):
    """x ``(tokens, inputs)`` feature by feature: ``turned`` is ``(inputs, padded)``, not set past the tokens.

    Gathered inputs of narrow blocks are then runs of tokens, where they were single numbers.
    """
    program = tl.program_id(0)
    across = tl.cdiv(inputs, TILE)
    token = program // across * TILE + tl.arange(0, TILE)
    source = program % across * TILE + tl.arange(0, TILE)
    there = (token < tokens)[:, None] & (source < inputs)[None, :]
    tile = tl.load(x + token[:, None].to(tl.int64) * x_token + source[None, :].to(tl.int64) * x_input, mask=there)
    tl.store(turned + source[:, None].to(tl.int64) * padded + token[None, :], tl.trans(tile), mask=tl.trans(there))
