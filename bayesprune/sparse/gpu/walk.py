"""Indexing of a block row in Triton: a matrix ``(entries, h)``, an entry being one input of one stored block."""

from typing import no_type_check

import triton
import triton.language as tl

__all__ = ["inputs_of", "part_of_row"]


@triton.jit
@no_type_check
def part_of_row(crow, row, part, W: tl.constexpr, STEP: tl.constexpr, SPLIT: tl.constexpr):
    """The row's first block, and of its entries, counted from there, the first and the end of the ``part``-th part."""
    block = tl.load(crow + row)
    entries = (tl.load(crow + row + 1) - block) * W
    first = 0
    if SPLIT > 1:
        share = tl.cdiv(tl.cdiv(entries, STEP), SPLIT) * STEP
        first = part * share
        entries = tl.minimum(first + share, entries)
    return block, first, entries


@triton.jit
@no_type_check
def inputs_of(cols, entry, end, W: tl.constexpr, STEP: tl.constexpr):
    """The inputs of the ``STEP`` entries from ``entry`` on; ``cols`` points at the row's first block column."""
    step = tl.arange(0, STEP)
    if W % STEP == 0:  # within one block
        source = tl.load(cols + entry // W, mask=entry < end, other=0) * W + entry % W + step
        source = tl.max_contiguous(tl.multiple_of(source, STEP), STEP)
    else:
        place = entry + step
        source = tl.load(cols + place // W, mask=place < end, other=0) * W + place % W
        if STEP % W == 0:
            source = tl.max_contiguous(tl.multiple_of(source, W), W)
    return source
