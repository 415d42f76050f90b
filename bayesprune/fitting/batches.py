"""Validation of batches: how many a loader holds, inputs and targets, what must not be in them."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

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
    try:
        count = len(loader)  # type: ignore[arg-type]
    except TypeError:  # none, or that of a DataLoader over a stream, which raises
        count = sum(1 for _ in loader)
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


def count_examples(x: Any, y: Any) -> int:
    """How many examples a batch holds: the first axis of its targets, or of the first of several.

    >>> count_examples(torch.zeros(8, 3), {"energy": torch.zeros(8), "forces": torch.zeros(8, 3)})
    8
    """
    if isinstance(y, Tensor):
        return max(len(y), 1) if y.dim() else 1
    leaves = tree_leaves(y) if isinstance(y, (Mapping, tuple)) else tree_leaves(x)  # a list can be an entry an example
    tensor = next((leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), None)
    if tensor is not None:
        return max(len(tensor), 1)
    return max(len(y), 1) if isinstance(y, Sized) else 1


def check_size(loader: Any, size: int | None) -> None:
    """Warn where the data set has more examples than the model was told."""
    dataset, sampler = getattr(loader, "dataset", None), getattr(loader, "sampler", None)
    if size is None or not isinstance(dataset, Sized) or not isinstance(sampler, Sized):
        return
    with suppress(TypeError):  # a length that raises
        count = min(len(dataset), len(sampler))
        if count > size:
            warnings.warn(
                f"the loader's data set has {count} examples and the model was given size={size}: the KL then counts "
                f"{count / size:.3g} times as much as it should; say size={count}",
                stacklevel=5,
            )


def check_inputs(x: Any, i: int) -> None:
    """Raise ``ValueError`` where the inputs of batch ``i`` are empty, NaN or infinite."""
    for tensor in x.values() if isinstance(x, Mapping) else x if isinstance(x, (tuple, list)) else [x]:
        if isinstance(tensor, Tensor):
            if len(tensor) == 0:
                raise ValueError(f"batch {i} is empty")
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"batch {i} holds NaN or infinity in its inputs: clean the data first")
