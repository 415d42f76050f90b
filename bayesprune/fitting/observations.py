"""Observation models: the distribution of the target given the net's output."""

import math
from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from bayesprune.draws.sites import param_site

__all__ = ["CategoricalObservation", "NormalObservation", "Observation"]


class Observation(nn.Module, ABC):
    """The distribution of the target given a net's output."""

    @abstractmethod
    def forward(self, output: Tensor) -> TorchDistributionMixin:
        """The distribution of y, one per example."""

    @abstractmethod
    def check(self, output: Tensor, y: Tensor) -> Tensor:
        """``y`` as the distribution takes it; raises ``ValueError`` where it cannot be a target of ``output``."""


class CategoricalObservation(Observation):
    """Classes: the output holds logits, the class axis last."""

    def forward(self, output: Tensor) -> TorchDistributionMixin:
        return dist.Categorical(logits=output, validate_args=False).to_event(output.dim() - 2)

    def check(self, output: Tensor, y: Tensor) -> Tensor:
        classes = output.shape[-1]
        if y.shape != output.shape[:-1]:
            raise ValueError(
                f"labels of shape {tuple(y.shape)} do not go with logits of shape {tuple(output.shape)}: expected one "
                f"integer label per example, of shape {tuple(output.shape[:-1])}"
            )
        if y.is_floating_point() or y.dtype == torch.bool:
            raise ValueError(f"labels must be integers, got {y.dtype}; for real targets use bp.regress")
        y = y.long()  # of whatever width they come in
        low, high = (int(v) for v in torch.aminmax(y))
        if low < 0 or high >= classes:
            raise ValueError(f"labels must lie in 0…{classes - 1} for {classes} logits, got {low}…{high}")
        return y


class NormalObservation(Observation):
    """Real targets: the output is the mean of y, with one noise for all.

    Args:
        noise: the standard deviation of y around the mean, in y's units; ``None`` learns it, from 1.
    """

    log_noise: Tensor

    def __init__(self, noise: float | None = None) -> None:
        super().__init__()
        if noise is not None and not (math.isfinite(noise) and noise > 0):
            raise ValueError(f"noise is the target's standard deviation, a number above 0, got {noise}")
        self.learned = noise is None
        start = torch.tensor(0.0 if noise is None else math.log(noise))
        if self.learned:
            self.log_noise = nn.Parameter(start)
        else:
            self.register_buffer("log_noise", start)

    @property
    def noise(self) -> float:
        """The noise's standard deviation, in y's units."""
        return math.exp(self.log_noise.item())

    def forward(self, output: Tensor) -> TorchDistributionMixin:
        log_noise = (
            param_site("noise.log", self.log_noise) if isinstance(self.log_noise, nn.Parameter) else self.log_noise
        )
        scale = log_noise.exp().to(output.dtype)
        return dist.Normal(output, scale, validate_args=False).to_event(output.dim() - 1)

    def check(self, output: Tensor, y: Tensor) -> Tensor:
        if y.shape != output.shape and (*y.shape, 1) == tuple(output.shape):
            y = y.unsqueeze(-1)
        if y.shape != output.shape:
            raise ValueError(f"targets of shape {tuple(y.shape)} do not go with outputs of shape {tuple(output.shape)}")
        if not y.is_floating_point():
            raise ValueError(f"targets must be floating point, got {y.dtype}; for labels use bp.classify")
        if not bool(torch.isfinite(y).all()):
            raise ValueError("the targets hold NaN or infinity")
        return y
