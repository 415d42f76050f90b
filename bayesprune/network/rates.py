"""Learning rates of a posterior's parameters, as groups for an optimiser."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from bayesprune.methods.base import Posterior

__all__ = ["groups_by_rate"]


def groups_by_rate(
    posteriors: Iterable[Posterior], parameters: Iterable[nn.Parameter], lr: float
) -> list[dict[str, Any]]:
    """What requires a gradient of ``parameters``, a group for each rate: ``lr`` times the posterior's own factor.

    Raises:
        ValueError: nothing requires a gradient.
    """
    factors = {
        id(parameter): posterior.lr_multipliers.get(leaf, 1.0)
        for posterior in posteriors
        for leaf, parameter in posterior.named_parameters()
    }
    by_factor: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            by_factor.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
    if not by_factor:
        raise ValueError("nothing to fit: the model has no parameter that requires a gradient")
    return [{"params": group, "lr": lr * factor} for factor, group in by_factor.items()]
