"""Validation of batches: how many a loader holds, inputs and targets, what must not be in them."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor

from bayesprune.fitting.likelihoods import parted

__all__ = ["check_inputs", "check_loader", "count_batches", "count_examples", "pair"]


def check_loader(loader: Any) -> None:
    """Raise ``ValueError`` where the loader can be read only once."""
    if isinstance(loader, Iterator):
        raise ValueError("the loader is a one-pass iterator: give a DataLoader or a list, which can be read each epoch")


def count_batches(loader: Iterable[Any]) -> int:
    """How many batches an epoch has; one whose loader does not say is read through once.

    Raises:
        ValueError: none.
    """
    count = len(loader) if isinstance(loader, Sized) else sum(1 for _ in loader)
    if count == 0:
        raise ValueError("the loader holds no batches")
    return count


def pair(batch: Any) -> tuple[Any, Any]:
    """A batch's inputs and its targets.

    Raises:
        ValueError: it is no pair.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise ValueError(
            f"a batch is (x, y), or (x1, x2, …, y) for a net of several inputs; got {type(batch).__name__}"
        )
    return parted(batch)


def count_examples(y: Any) -> int:
    """How many examples a batch holds, by its targets."""
    return max(len(y), 1) if isinstance(y, Sized) else 1


def check_inputs(x: Any, i: int) -> None:
    """Raise ``ValueError`` where the inputs of batch ``i`` are empty, NaN or infinite."""
    for tensor in x.values() if isinstance(x, Mapping) else x if isinstance(x, (tuple, list)) else [x]:
        if isinstance(tensor, Tensor):
            if len(tensor) == 0:
                raise ValueError(f"batch {i} is empty")
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"batch {i} holds NaN or infinity in its inputs: clean the data first")
