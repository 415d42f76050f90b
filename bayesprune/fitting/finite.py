"""Numbers that are no longer finite, found at the cost of one norm."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["first_not_finite", "gradients", "total"]


def gradients(net: nn.Module) -> list[tuple[str, Tensor]]:
    """The gradients of a net by parameter name, a sparse one by its values; empty ones are left out."""
    found = [(name, p.grad) for name, p in net.named_parameters() if p.grad is not None and p.grad.numel()]
    return [(name, grad._values() if grad.is_sparse else grad) for name, grad in found]


def total(tensors: Iterable[Tensor]) -> Tensor:
    """A norm of all the tensors together, on the first one's device: finite only if they all are.

    It can overflow where they are finite and huge: ask :func:`first_not_finite` then.
    """
    found = [tensor.detach() for tensor in tensors]
    return nn.utils.get_total_norm(found) if found else torch.zeros(())


def first_not_finite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds NaN or infinity."""
    return next((name for name, tensor in named if not bool(torch.isfinite(tensor).all())), None)
