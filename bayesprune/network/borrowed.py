"""A net that is run in another's stead and left as it was: modes, what hooks compute, buffers that appear."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from bayesprune._copies import computed

__all__ = ["borrowed"]


@contextmanager
def borrowed(net: nn.Module, training: bool) -> Iterator[dict[str, Tensor]]:
    """Run ``net`` in a mode, and put back afterwards what it is made of.

    Every submodule's own mode; the weights that hooks compute before each call, as ``weight_norm`` does; and buffers
    that were None, or were not there.

    Yields:
        The buffers that appeared, by their dotted names, once the block is left.

    >>> net = nn.Sequential(nn.Linear(2, 2)).eval()
    >>> with borrowed(net, True):
    ...     net[0].training
    True
    >>> net[0].training
    False
    """
    modules = dict(net.named_modules())
    modes = {path: module.training for path, module in modules.items()}
    hung = {path: found for path, module in modules.items() if (found := computed(module))}
    buffers = {path: (dict(m._buffers), set(m._non_persistent_buffers_set)) for path, m in modules.items()}
    frozen = net.training  # in a training net, a submodule in eval mode was frozen on purpose
    for path, module in modules.items():
        module.training = training and (modes[path] or not frozen)
    appeared: dict[str, Tensor] = {}
    try:
        yield appeared
    finally:
        for path, module in modules.items():
            module.training = modes[path]
            module.__dict__.update(hung.get(path, {}))
            before, loose = buffers[path]
            for name, buffer in list(module._buffers.items()):
                if buffer is not None and before.get(name) is None:
                    appeared[f"{path}.{name}".removeprefix(".")] = buffer
                    if name in before:
                        module._buffers[name] = None
                    else:
                        del module._buffers[name]
            module._non_persistent_buffers_set = loose
