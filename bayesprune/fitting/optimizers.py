"""The optimiser of a fit, Adam unless another is asked for, and how its learning rates fall."""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["OptimizerFactory", "adam", "half_then_linear"]

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


def half_then_linear(progress: float) -> float:
    """The default learning-rate factor: 1 for the first half of the run, then linear to 0."""
    return min(1.0, 2 * (1 - progress))


def adam(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The default optimiser, fused where it can be: every parameter real, and none with a sparse gradient."""
    takes = all(p.is_floating_point() for group in groups for p in group["params"])
    return torch.optim.Adam(groups, fused=takes)
