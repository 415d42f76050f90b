"""The epilogue of a Triton product: scale, bias, activation, and the store."""

from typing import no_type_check

import triton
import triton.language as tl

__all__ = ["finish", "write"]


@triton.jit
@no_type_check
def finished(sums, output, there, bias, scale, ACTIVATION: tl.constexpr):
    """``ACTIVATION(sums * scale + bias)`` for sums ``(tokens, outputs)`` in float32.

    bias, scale or the activation, a Triton function (:func:`bayesprune.sparse.activations.in_triton`), may be None.
    """
    if scale is not None:
        sums *= tl.load(scale + output, mask=there, other=0.0).to(tl.float32)
    if bias is not None:
        sums += tl.load(bias + output, mask=there, other=0.0).to(tl.float32)
    if ACTIVATION is not None:
        sums = ACTIVATION(sums)
    return sums


@triton.jit
@no_type_check
def write(
    y,
    sums,
    token,
    tokens,
    row,
    output,
    outputs,
    part,
    bias,
    scale,
    H: tl.constexpr,
    SPLIT: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Store the sums of a tile of tokens by block row ``row``, finished; as the ``part``-th partial sums if split."""
    place = row * H + output
    there = (output < H) & (place < outputs)
    inside = (token < tokens)[:, None] & there[None, :]
    if SPLIT > 1:
        y += part.to(tl.int64) * tokens * outputs
    else:
        sums = finished(sums, place[None, :], there[None, :], bias, scale, ACTIVATION)
    target = y + token[:, None].to(tl.int64) * outputs + place[None, :]
    tl.store(target, sums.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens"])
@no_type_check
def finish(
    partial,
    bias,
    scale,
    y,
    tokens,
    outputs,
    SPLIT: tl.constexpr,
    SIZE: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Add up the partial sums ``(SPLIT, tokens, outputs)``, in their order, and finish them: y, row by row."""
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    size = tokens.to(tl.int64) * outputs
    there = place < size
    sums = tl.zeros((SIZE,), dtype=tl.float32)
    for _ in tl.static_range(SPLIT):
        sums += tl.load(partial + place, mask=there, other=0.0)
        partial += size
    sums = finished(sums, (place % outputs).to(tl.int32), there, bias, scale, ACTIVATION)
    tl.store(y + place, sums.to(y.dtype.element_ty), mask=there)
