"""A net of the zoo: how it is made, and its inputs for a batch of any size."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Entry", "floats", "tokens"]


@dataclass(frozen=True)
class Entry:
    """A net and its inputs.

    Args:
        make: the net, fresh.
        inputs: what it takes, for a batch of so many: a tensor, a tuple of arguments or a dict of them.
        batches: two sizes of a batch; one where the net takes no other.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int], object]
    batches: tuple[int, ...] = (3, 2)


def floats(*shape: int, scale: float = 1.0) -> Callable[[int], Tensor]:
    """Standard normal numbers, ``(batch, *shape)``.

    >>> floats(4)(2).shape
    torch.Size([2, 4])
    """
    return lambda n: scale * torch.randn(n, *shape)


def tokens(length: int, words: int = 11) -> Callable[[int], Tensor]:
    """Words by their numbers, ``(batch, length)``.

    >>> tokens(5)(2).shape
    torch.Size([2, 5])
    """
    return lambda n: torch.randint(words, (n, length))
