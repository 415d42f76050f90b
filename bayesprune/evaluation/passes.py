"""A data set that is read several times: every pass must give the same batches in the same order."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from zlib import crc32

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bayesprune.fitting.batches import split
from bayesprune.network.bayesian_net import BayesianNet

__all__ = ["SteadyLoader", "check_like", "steady"]

_ENTRIES = 48  # of an example
_CHANGED = "the loader's order changes from one pass to the next"
_MEND = "make one with shuffle=False, and without random augmentation"


class SteadyLoader:
    """A loader that is held to its first pass by a checksum of each batch, of inputs and targets.

    Raises:
        ValueError: while a later pass is read, where it gives another batch, more of them or fewer.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader
        self._first: list[int] | None = None

    def __iter__(self) -> Iterator[Any]:
        seen: list[int] = []
        for batch in self._loader:
            seen.append(_checksum(batch))
            at = len(seen) - 1
            if self._first is not None and (at >= len(self._first) or seen[at] != self._first[at]):
                raise ValueError(f"{_CHANGED} (batch {at} is another): {_MEND}")
            yield batch
        if self._first is not None and len(seen) < len(self._first):
            raise ValueError(f"{_CHANGED} ({len(self._first)} batches, then {len(seen)}): {_MEND}")
        self._first = seen

    def check_inputs_alone(self, bnet: BayesianNet) -> None:
        """For a single pass, in which an order that changes would not show: raise ``ValueError`` where the batches are
        of inputs alone, which nothing could match with their results, and the first one is another the second time.
        The global generator is left as it was.
        """
        with torch.random.fork_rng(devices=[]):
            twice = [next(iter(self._loader), None) for _ in range(2)]
        if split(bnet, twice[0])[1] is None and _checksum(twice[0]) != _checksum(twice[1]):
            raise ValueError(f"{_CHANGED} (batch 0 is another): {_MEND}")


def steady(loader: Iterable[Any]) -> Iterable[Any]:
    """``loader`` for several passes: an iterator as a list, what is not a list already under :class:`SteadyLoader`.

    >>> batches = steady(torch.utils.data.DataLoader(list(range(100)), batch_size=10, shuffle=True))
    >>> for _ in range(2):
    ...     shown = list(batches)
    Traceback (most recent call last):
    ValueError: the loader's order changes from one pass to the next (batch 0 is another): make one with ...
    """
    if isinstance(loader, Iterator):
        return list(loader)
    return loader if isinstance(loader, (list, tuple, SteadyLoader)) else SteadyLoader(loader)


def check_like(first: Any, part: Any, what: str) -> None:
    """Raise ``ValueError`` unless the tensors of a batch's ``what`` have the shapes of the first one's, but for the
    examples."""
    for one, other in zip(tree_leaves(first), tree_leaves(part), strict=False):
        if isinstance(one, Tensor) and isinstance(other, Tensor) and other.shape[1:] != one.shape[1:]:
            raise ValueError(
                f"the {what} of two batches have different shapes, {tuple(one.shape)} and {tuple(other.shape)}: give "
                "all batches inputs of one length (pad them to the longest of the whole data set), or one batch alone"
            )


def _checksum(batch: Any, start: int = 0) -> int:
    """A checksum of the tensors, numbers and texts in a batch, which is nested as it likes.

    Of a large example it takes some entries: to read them all costs as much as a small net.
    """
    if isinstance(batch, Tensor):
        dense = batch.detach().to_dense() if batch.layout != torch.strided else batch.detach()
        examples = dense.reshape(len(dense), -1) if dense.dim() and dense.numel() else dense.reshape(1, -1)
        if examples.shape[1] > _ENTRIES:
            examples = examples[:, _spread_over(examples.shape[1]).to(examples.device)]
        data = examples.cpu().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)
        return crc32(data.numpy().data, crc32(repr((batch.dtype, tuple(batch.shape))).encode(), start))
    if isinstance(batch, Mapping):
        batch = [part for pair in batch.items() for part in pair]
    if isinstance(batch, (list, tuple)):
        for part in batch:
            start = _checksum(part, start)
        return start
    return crc32(repr(batch).encode(), start) if isinstance(batch, (int, float, str, bytes)) else start


def _spread_over(size: int) -> Tensor:
    """Some of so many places, by the golden ratio: evenly spread, and in step with no row or column of an image."""
    golden = (5**0.5 - 1) / 2
    return (torch.arange(_ENTRIES, dtype=torch.float64) * golden % 1 * size).long()
