"""A batch as loaders give it: its inputs, its targets, how many examples it holds, and a net called on it."""

from collections.abc import Callable, Mapping, Sized
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ["call", "count_examples", "parted"]


def call(net: Callable[..., Any], x: Any) -> Any:
    """``net(x)``, where a tuple or list is several inputs and a mapping is keyword inputs."""
    if isinstance(x, Mapping):
        return net(**x)
    if isinstance(x, (tuple, list)):
        return net(*x)
    return net(x)


def parted(batch: Any, targets: str | tuple[str, ...] = "labels") -> tuple[Any, Any]:
    """A batch's inputs, one, a tuple of several or a dict by name, and its targets: ``None`` where it has none.

    Args:
        batch: ``(x, y)``, ``(x1, x2, …, y)``, or a mapping such as Hugging Face's collators give.
        targets: the entry of a mapping that is the targets, or several; the others are inputs.

    >>> parted((1, 2, 3)), parted(1)
    (((1, 2), 3), (1, None))
    >>> parted({"input_ids": 1, "attention_mask": 2, "labels": 3})
    ({'input_ids': 1, 'attention_mask': 2}, 3)
    """
    if isinstance(batch, Mapping):
        names = (targets,) if isinstance(targets, str) else targets
        named = {name: part for name, part in batch.items() if name not in names}
        if any(name not in batch for name in names):
            return named, None
        return named, batch[targets] if isinstance(targets, str) else tuple(batch[name] for name in names)
    *x, y = batch if isinstance(batch, (tuple, list)) and len(batch) > 1 else (batch, None)
    return x[0] if len(x) == 1 else tuple(x), y


def count_examples(x: Any, y: Any) -> int:
    """How many examples a batch holds: the first axis of its targets, or of the first of several.

    >>> import torch
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
