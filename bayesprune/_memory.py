"""Parameters that share memory without being one: a tie that no copy, mask or posterior can follow."""

from collections.abc import Iterable
from itertools import combinations

import torch
from torch import Tensor, nn

__all__ = ["check_memory"]


def check_memory(net: nn.Module) -> None:
    """Raise ``ValueError`` where a parameter shares entries with another tensor of ``net``, or with itself.

    One parameter under two names is a tie that is followed; so are views of one flat tensor that do not overlap.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> net[1].weight = nn.Parameter(net[0].weight.detach().T)
    >>> check_memory(net)
    Traceback (most recent call last):
    ...
    ValueError: '0.weight' and '1.weight' are two tensors over the same memory, which no copy of the net can follow: ...
    """
    parameters, together = dict(net.named_parameters()), dict[int, list[str]]()
    tensors = {**parameters, **dict(net.named_buffers())}
    for name, x in tensors.items():
        if not isinstance(x, nn.UninitializedParameter) and _is_plain(x):
            together.setdefault(x.untyped_storage().data_ptr(), []).append(name)
            if name in parameters and any(step == 0 and n > 1 for n, step in zip(x.shape, x.stride(), strict=True)):
                raise ValueError(
                    f"{name!r} is expanded: several of its entries are one number in memory, and cannot be told apart; "
                    "give it entries of its own, nn.Parameter(x.clone()), or expand it in the forward"
                )
    for names in together.values():
        for one, other in combinations(names, 2):
            if (one in parameters or other in parameters) and _overlap(tensors[one], tensors[other]):
                raise ValueError(
                    f"{one!r} and {other!r} are two tensors over the same memory, which no copy of the net can follow: "
                    "make them one (b.weight = a.weight), compute one of the other in the forward, or clone one"
                )


def _is_plain(x: Tensor) -> bool:
    return type(x.data) is Tensor and x.layout == torch.strided and not x.is_meta and bool(x.numel())


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one storage have an entry in common, exactly: what lies between each other has none."""
    if a.dtype != b.dtype:
        return _bytes(a).start < _bytes(b).stop and _bytes(b).start < _bytes(a).stop
    first, last = min(_bytes(x).start for x in (a, b)), max(_bytes(x).stop for x in (a, b))
    if _bytes(a).stop <= _bytes(b).start or _bytes(b).stop <= _bytes(a).start:
        return False
    taken = torch.zeros((last - first) // a.itemsize, dtype=torch.bool)
    views = [
        taken.as_strided(x.shape, x.stride(), (x.storage_offset() * x.itemsize - first) // x.itemsize) for x in (a, b)
    ]
    views[0].fill_(True)
    return bool(views[1].any())


def _bytes(x: Tensor) -> range:
    """Where in its storage the entries of ``x`` lie."""
    start = x.storage_offset() * x.itemsize
    return range(start, start + (_last(zip(x.shape, x.stride(), strict=True)) + 1) * x.itemsize)


def _last(axes: Iterable[tuple[int, int]]) -> int:
    return sum((n - 1) * step for n, step in axes)
