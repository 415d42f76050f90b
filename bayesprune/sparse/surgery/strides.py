"""Strides of packed convolutions' results: channels-last, but where the net takes a view that these have not."""

from torch import nn

from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.surgery.comparison import results

__all__ = ["make_contiguous"]


def make_contiguous(net: nn.Module, dense: nn.Module, example: object, *, training: bool = False) -> list[str]:
    """Have packed convolutions of ``net`` give contiguous results where it raises else, in place; their paths.

    ``x.view(len(x), -1)`` after a convolution is one that needs it. The net is run on the example; where it raises, the
    last packed convolution before that is made to give contiguous results, and so on. Where that helps nothing, or the
    net ``dense`` raises too, all is left as it was.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 2))
    >>> make_contiguous(net, net, torch.ones(1, 2))
    []
    """
    made: dict[str, SparseConv2d] = {}
    while True:
        called: list[str] = []
        handles = [
            module.register_forward_pre_hook(lambda _module, _args, path=path, called=called: called.append(path))
            for path, module in net.named_modules()
            if isinstance(module, SparseConv2d) and not module.contiguous
        ]
        try:
            results(net, example, training=training)
        except Exception:  # torch's of a view, or whatever else a forward of the user's raises
            last = called[-1] if called else None
        else:
            return list(made)
        finally:
            for handle in handles:
                handle.remove()
        if last is None or (not made and _raises(dense, example, training)):
            for layer in made.values():
                layer.contiguous = False
            return []
        module = net.get_submodule(last)
        assert isinstance(module, SparseConv2d)
        module.contiguous, made[last] = True, module


def _raises(net: nn.Module, example: object, training: bool) -> bool:
    try:
        results(net, example, training=training)
    except Exception:  # as above
        return True
    return False
