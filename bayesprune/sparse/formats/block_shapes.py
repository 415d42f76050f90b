"""Block shapes that a mask fills with little padding: candidates for BSR."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from bayesprune.sparse.formats import BSR

__all__ = ["GPU_HEIGHTS", "HEIGHTS", "block_shapes", "filled"]

HEIGHTS = (4, 8, 16, 32, 64)  # of the blocks that are tried
GPU_HEIGHTS = (16, 32, 64, 128)
_WIDTHS = (1, 2, 4, 8, 16, 32, 64)


def _pairwise_max(touched: Tensor, axis: int) -> Tensor:
    if touched.shape[axis] % 2:
        touched = F.pad(touched, (0, 0, 0, 1) if axis == 0 else (0, 1))
    return touched.unflatten(axis, (-1, 2)).amax(axis + 1)


def _entries(touched: Tensor, h: int, w: int, out: int, into: int) -> int:
    """How many entries of an ``(out, in)`` weight lie in the touched blocks: those at the far edges may be smaller."""
    over, beyond = touched.shape[0] * h - out, touched.shape[1] * w - into
    full, below, right = (int(t.count_nonzero()) for t in (touched, touched[-1], touched[:, -1]))
    return full * h * w - below * over * w - right * h * beyond + int(touched[-1, -1]) * over * beyond


def filled(mask: Bool[Tensor, "out in"], heights: Sequence[int] = HEIGHTS) -> dict[tuple[int, int], float]:
    """For each block shape tried, the share of kept entries in the blocks that hold any; edges count as they are.

    >>> mask = torch.zeros(8, 4, dtype=torch.bool)
    >>> mask[:4, 0] = True
    >>> filled(mask)[4, 1], filled(mask)[4, 2]
    (1.0, 0.5)
    """
    kept, (out, into) = int(mask.count_nonzero()), mask.shape
    shares: dict[tuple[int, int], float] = {}
    if not kept:
        return shares
    tall, height = mask.cpu().to(torch.uint8), 1
    while height * 2 <= min(out, max(heights)):
        tall, height = _pairwise_max(tall, 0), height * 2
        if height not in heights:
            continue
        wide, width = tall, 1
        while width <= min(into, max(_WIDTHS)):
            shares[height, width] = kept / _entries(wide, height, width, out, into)
            wide, width = _pairwise_max(wide, 1), width * 2
    return shares


def block_shapes(
    mask: Bool[Tensor, "out in"],
    least: float = 0.9,
    fits: Callable[[int, int], bool] = lambda h, w: True,
    heights: Sequence[int] = HEIGHTS,
) -> list[BSR]:
    """Up to three block shapes that the mask fills to ``least``: the largest, the largest square, the tallest column.

    >>> [str(block) for block in block_shapes(torch.ones(16, 16, dtype=torch.bool))]
    ['BSR(16, 16)', 'BSR(16, 1)']
    """
    fit = [shape for shape, share in filled(mask, heights).items() if share >= least and fits(*shape)]
    choices = (
        max(fit, key=lambda s: (s[0] * s[1], s[0]), default=None),
        max((s for s in fit if s[0] == s[1]), default=None),
        max((s for s in fit if s[1] == 1), default=None),
    )
    return [BSR(*shape) for shape in dict.fromkeys(choices) if shape is not None]
