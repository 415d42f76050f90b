"""Replace a submodule: the one place where a module takes another's place."""

from torch import nn

from bayesprune.sparse.formats import SparseWeight
from bayesprune.sparse.layers.sizes import carry
from bayesprune.sparse.surgery.eligibility import packed_layer

__all__ = ["put", "replace"]


def put(net: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put ``module`` at ``path``, in place; returns the net, which is ``module`` itself where ``path`` is empty."""
    if not path:
        return module
    parent, _, leaf = path.rpartition(".")
    setattr(net.get_submodule(parent), leaf, module)
    return net


def replace(
    net: nn.Module, path: str, packed: SparseWeight, kernel: str, activation: str = "", contiguous: bool = False
) -> nn.Module:
    """Put a packed layer in the place of the linear layer or convolution ``path``, with its bias and mode.

    In place; returns the net, which is the new layer itself where ``path`` is empty. Its values are trained where the
    weight was.
    """
    old = net.get_submodule(path)
    new = packed_layer(old, packed, kernel, activation, contiguous).train(old.training)
    weight = old._parameters.get("weight", old._parameters.get("values"))
    assert weight is not None
    new.values.requires_grad_(weight.requires_grad and new.values.is_floating_point())
    carry(old, new)
    return put(net, path, new)
