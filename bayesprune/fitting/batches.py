"""Validation of batches: how many a loader holds, inputs and targets, what must not be in them."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler

from bayesprune.likelihoods.batch import count_examples, parted
from bayesprune.network.bayesian_net import BayesianNet

__all__ = [
    "check_inputs",
    "check_loader",
    "check_size",
    "count_batches",
    "count_data",
    "count_examples",
    "known_size",
    "pair",
    "split",
    "usual",
]


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


def split(bnet: BayesianNet, batch: Any) -> tuple[Any, Any]:
    """A batch's inputs and its targets, ``None`` where it has none; in a mapping, as the likelihood calls them."""
    return parted(batch, "labels" if bnet.observation is None else bnet.observation.targets)


def pair(bnet: BayesianNet, batch: Any) -> tuple[Any, Any]:
    """A batch's inputs and its targets.

    Raises:
        ValueError: it has none.
    """
    if not isinstance(batch, (tuple, list, Mapping)) or (len(batch) < 2 and not isinstance(batch, Mapping)):
        raise ValueError(
            "a batch is (x, y), (x1, x2, …, y) for a net of several inputs, or a dict with labels; got "
            f"{type(batch).__name__}"
        )
    x, y = split(bnet, batch)
    if isinstance(batch, Mapping) and y is None:
        named = "labels" if bnet.observation is None else bnet.observation.targets
        raise ValueError(
            f"a batch has no {named!r}, only {', '.join(map(repr, batch))}: say what its targets are called with the "
            "likelihood's targets, or give (x, y)"
        )
    return x, y


def check_size(loader: Any, size: int) -> None:
    """Raise ``ValueError`` where a loader's data set has another number of examples than the model was told.

    A list of batches may be a part of the data or hold some twice: of it, where that number is how many batches it has.
    """
    counts = _counts(loader)
    if not counts or size in counts:
        return
    batches = count_batches(loader)
    if isinstance(loader, (list, tuple)) and (size != batches or len({id(batch) for batch in loader}) < batches):
        return
    what = ", which is how many batches it has" if size == batches else ""
    raise ValueError(
        f"the loader's data set has {counts[0]} examples and the model was given size={size}{what}: the KL would count "
        f"{counts[0] / size:.3g} times as much as it should; say size={counts[0]}, or leave size out"
    )


def count_data(bnet: BayesianNet, loader: Any) -> int:
    """How many examples a data set has; one whose loader does not say is read through once."""
    counts = _counts(loader)
    return counts[0] if counts else sum(count_examples(*split(bnet, batch)) for batch in loader)


def known_size(loader: Any) -> int | None:
    """How many examples a data set says that it has, without reading it; ``None`` where it does not."""
    return next(iter(_counts(loader)), None)


def _counts(loader: Any) -> list[int]:
    """How many examples a data set may be said to have, the likeliest first; none where only reading it would tell.

    Both are right of a sampler that draws some of the examples: those it draws from, and all that are there.
    """
    if isinstance(loader, (list, tuple)):
        return [sum(count_examples(*parted(batch)) for batch in loader)]
    dataset, sampler = getattr(loader, "dataset", None), getattr(loader, "sampler", None)
    if getattr(loader, "batch_size", None) is None:  # a data set of batches, unless the sampler makes them
        by = sampler if isinstance(sampler, BatchSampler) else getattr(loader, "batch_sampler", None)
        sampler = getattr(by, "sampler", None)
    if not isinstance(dataset, Sized) or not isinstance(sampler, Sized):
        return []
    with suppress(TypeError):  # a length that raises
        whole, drawn = len(dataset), len(sampler)
        return [whole, drawn] if isinstance(sampler, DistributedSampler) else [min(whole, drawn), whole, drawn]
    return []


def check_inputs(x: Any, i: int) -> None:
    """Raise ``ValueError`` where the inputs of batch ``i`` are empty, NaN or infinite, or no tensors but arrays."""
    for part in x.values() if isinstance(x, Mapping) else x if isinstance(x, (tuple, list)) else [x]:
        if isinstance(part, np.ndarray):
            raise ValueError(f"batch {i} holds a NumPy array of shape {part.shape}: make it a tensor, torch.as_tensor")
        if isinstance(part, Tensor):
            if part.dim() and len(part) == 0:
                raise ValueError(f"batch {i} is empty")
            if part.is_floating_point() and not bool(torch.isfinite(part).all()):
                raise ValueError(f"batch {i} holds NaN or infinity in its inputs: clean the data first")


def usual(part: Any) -> Any:
    """A tensor that was made in inference mode as one that autograd takes; anything else as it is."""
    return part.clone() if isinstance(part, Tensor) and part.is_inference() else part
