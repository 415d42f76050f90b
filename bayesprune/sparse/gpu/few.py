"""The Triton product for few tokens (under 16): memory-bound, without tensor cores."""

from typing import no_type_check

import triton
import triton.language as tl

from bayesprune.sparse.gpu.epilogue import write
from bayesprune.sparse.gpu.walk import inputs_of, part_of_row

__all__ = ["few_product"]


@triton.jit(do_not_specialize=["tokens"])
@no_type_check
def few_product(
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
    """:func:`bayesprune.sparse.gpu.linear.product`, its arguments too, for ``TILE`` of 1 to 8 tokens.

    Sums are float32 throughout, so that ``PRECISION`` and ``UPCAST`` say nothing here. Each thread keeps the sums of
    its own entries; they are added up once, at the end.
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
    kept = tl.zeros((TILE, STEP, WIDE), dtype=tl.float32)
    source = inputs_of(cols, first, end, W, STEP)
    for entry in tl.range(first, end, STEP, num_stages=3):  # not pipelined unless told, without tl.dot
        coming = inputs_of(cols, entry + STEP, end, W, STEP)
        live = entry + step < end
        there = (token < readable)[:, None] & live[None, :]
        if not EVEN:
            there = there & (source < inputs)[None, :]
        left = tl.load(source_rows + source[None, :].to(tl.int64) * x_input, mask=there, other=0.0)
        right = tl.load(value, mask=live[:, None] & (output < H)[None, :], other=0)
        value += STEP * H
        kept += left.to(tl.float32)[:, :, None] * right.to(tl.float32)[None, :, :]
        source = coming
    sums = tl.sum(kept, 1)
    write(y, sums, token, tokens, row, output, outputs, part, bias, scale, H, SPLIT, ACTIVATION)
