"""Padding rows of embeddings: entries of a weight that no gradient reaches."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from bayesprune.draws.gaussian import METADATA

__all__ = ["ReadElsewhere", "padding_of"]


def padding_of(net: nn.Module, name: str) -> Tensor | None:
    """The padding row of an embedding's weight, bool of shape ``(rows, 1)``; None where there is none.

    Where the weight is another layer's too, such as an output layer's, that one trains the row: it is none then.

    >>> padding_of(nn.Sequential(nn.Embedding(3, 8, padding_idx=1)), "0.weight")
    tensor([[False],
            [ True],
            [False]])
    """
    weight = net.get_parameter(name)
    padding = torch.zeros((*weight.shape[:1], 1), dtype=torch.bool, device=weight.device)
    for other, parameter in net.named_parameters(remove_duplicate=False):
        if parameter is not weight:
            continue
        path, _, leaf = other.rpartition(".")
        owner = net.get_submodule(path)
        if leaf != "weight" or not isinstance(owner, nn.Embedding | nn.EmbeddingBag) or owner.padding_idx is None:
            return None
        padding[owner.padding_idx] = True
    return (
        padding if int(padding.sum()) == 1 else None
    )  # tied to one that pads with another row, each trains the other's


class ReadElsewhere(TorchFunctionMode):
    """Within, find weights that something else than an embedding reads, such as ``F.linear(h, self.embed.weight)``.

    Args:
        weights: what the net runs on in the place of each weight, by its name.

    >>> weight = torch.ones(3, 2)
    >>> with ReadElsewhere({"embed.weight": weight}) as reading:
    ...     h = F.embedding(torch.tensor([0]), weight)
    ...     before = set(reading.names)
    ...     out = h @ weight.T
    >>> before, reading.names
    (set(), {'embed.weight'})
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._weights = {id(x): name for name, x in weights.items()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in (F.embedding, F.embedding_bag) and func not in METADATA:
            leaves = tree_leaves((args, kwargs or {}))
            self.names.update(self._weights[id(x)] for x in leaves if id(x) in self._weights)
        return func(*args, **(kwargs or {}))
