"""Activation checkpointing inside a net that runs on substituted parameters.

``torch.utils.checkpoint`` runs a segment again in the backward pass, when the net's own values have long been put
back. :func:`recomputing` has it run on the values of the forward pass, and so on the same draws.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch.utils.checkpoint as torchs
from torch import Tensor, nn

from bayesprune.network.substitute import call_on

__all__ = ["recomputing"]


class _Segment(nn.Module):
    """A function beside the net that it closes over, so that other values reach the net's tensors."""

    def __init__(self, net: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.net, self.function = net, function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


@contextmanager
def recomputing(
    net: nn.Module, values: Mapping[str, Tensor], around: Callable[[], AbstractContextManager[None]]
) -> Iterator[None]:
    """In this block, what ``net`` checkpoints is recomputed on ``values`` and inside ``around()``.

    The reentrant variant is run as the other one: it would go backward twice through what leads to a draw.
    """
    inside = {f"net.{name}": value for name, value in values.items()}
    reentrant, generator = torchs.CheckpointFunction, torchs._checkpoint_without_reentrant_generator

    def again(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def segment(*a: Any, **k: Any) -> Any:
            with around(), recomputing(net, values, around):
                return call_on(_Segment(net, function), inside, *a, **k)[0]

        return generator(segment, *args, **kwargs)

    class Redirected:
        @staticmethod
        def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
            return torchs.checkpoint(function, *args, use_reentrant=False, preserve_rng_state=preserve)

    torchs.CheckpointFunction, torchs._checkpoint_without_reentrant_generator = Redirected, again  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        torchs.CheckpointFunction, torchs._checkpoint_without_reentrant_generator = reentrant, generator  # type: ignore[assignment,misc]
