"""Padding rows of embeddings: entries of a weight that no gradient reaches."""

import torch
from torch import Tensor, nn

__all__ = ["padding_of"]


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
