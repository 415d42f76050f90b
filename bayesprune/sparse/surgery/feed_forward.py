"""Fuse the activation between the two linear layers of torch's transformer layers."""

from typing import cast

from torch import Tensor, nn

from bayesprune.sparse.activations import ACTIVATIONS, activation_in
from bayesprune.sparse.kernels import KERNELS

__all__ = ["fuse_activation", "remove_activation", "restore_activation"]

Block = nn.TransformerEncoderLayer | nn.TransformerDecoderLayer


def _passed_on(x: Tensor) -> Tensor:
    return x


def _block(net: nn.Module, path: str) -> Block | None:
    """The transformer layer whose first feed-forward layer is ``path``; None where it is none."""
    above, _, leaf = path.rpartition(".")
    block = net.get_submodule(above)
    exact = type(block) in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)  # others may have another forward
    return cast("Block", block) if leaf == "linear1" and exact else None


def fuse_activation(net: nn.Module, path: str, kernel: str) -> str:
    """The activation after the layer ``path`` that ``kernel`` can work out in it; empty where there is none."""
    block = _block(net, path)
    activation = None if block is None or not KERNELS[kernel].fuses else activation_in(block.activation)
    return activation.name if activation else ""


def remove_activation(net: nn.Module, path: str) -> None:
    """Take away the activation after the layer ``path``, which holds it, in place."""
    block = _block(net, path)
    if block is not None:
        block.activation = _passed_on


def restore_activation(net: nn.Module, path: str, activation: str) -> bool:
    """Put the activation back that the layer ``path`` held, in place; False where it came from elsewhere."""
    block = _block(net, path)
    if block is None or block.activation is not _passed_on:
        return False
    block.activation = ACTIVATIONS[activation].function
    return True
