"""The optimiser of a fit: a group of parameters for each learning rate, Adam unless another is asked for."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bayesprune.network.bayesian_net import BayesianNet

__all__ = ["OptimizerFactory", "adam", "half_then_linear", "parameter_groups"]

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


def half_then_linear(progress: float) -> float:
    """The default learning-rate factor: 1 for the first half of the run, then linear to 0."""
    return min(1.0, 2 * (1 - progress))


def adam(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The default optimiser, fused where it can be: every parameter real, and none with a sparse gradient."""
    takes = all(p.is_floating_point() for group in groups for p in group["params"])
    return torch.optim.Adam(groups, fused=takes)


def parameter_groups(bound: nn.Module, bnet: BayesianNet, lr: float) -> list[dict[str, Any]]:
    """What requires a gradient, a group for each learning rate: ``lr`` times the posterior's own factor.

    Raises:
        ValueError: nothing requires a gradient.
    """
    rate = {
        id(parameter): posterior.lr_multipliers.get(leaf, 1.0)
        for posterior in bnet.posteriors.values()
        for leaf, parameter in posterior.named_parameters()
    }
    by_rate: dict[float, list[nn.Parameter]] = {}
    for parameter in bound.parameters():
        if parameter.requires_grad:
            by_rate.setdefault(rate.get(id(parameter), 1.0), []).append(parameter)
    if not by_rate:
        raise ValueError("nothing to fit: the model has no parameter that requires a gradient")
    return [{"params": parameters, "lr": lr * factor} for factor, parameters in by_rate.items()]
