"""A module tree that mirrors a net's dotted parameter names, so that ``state_dict`` keys read like the net's."""

from collections.abc import Iterator

from torch import Tensor, nn

__all__ = ["Tree", "put", "tensors"]


class Tree(nn.Module):
    """Parameters, buffers or modules by dotted name; without methods, whose names would be denied to the net.

    >>> tree = Tree()
    >>> put(tree, "fc.weight", nn.Parameter(nn.Linear(2, 1).weight.detach()))
    >>> list(tree.state_dict())
    ['fc.weight']
    """


def put(tree: Tree, name: str, what: "nn.Module | nn.Parameter | Tensor") -> None:
    """Hold ``what`` under ``name``: a module, a parameter, or (any other tensor) a buffer."""
    path, _, leaf = name.rpartition(".")
    node: nn.Module = tree
    for part in path.split(".") if path else ():
        if part not in node._modules:
            node.add_module(part, Tree())
        node = node.get_submodule(part)
    if isinstance(what, nn.Module):
        node.add_module(leaf, what)
    elif isinstance(what, nn.Parameter):
        node.register_parameter(leaf, what)
    else:
        node.register_buffer(leaf, what)


def tensors(tree: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer by its dotted name."""
    yield from tree.named_parameters()
    yield from tree.named_buffers()
