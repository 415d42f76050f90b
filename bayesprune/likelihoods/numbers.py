"""Numbers, one or several an example: what real, positive and counted targets have in common."""

import math
from abc import abstractmethod
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from bayesprune.draws.sites import param_site
from bayesprune.likelihoods.base import Likelihood, mixture, one_for_each, one_tensor
from bayesprune.likelihoods.losses import LEVEL, Losses

__all__ = ["Numbers"]


class Numbers(Likelihood):
    """A distribution for each number of y; a family adds :meth:`each` and :meth:`cdf`, and what numbers can be."""

    @abstractmethod
    def each(self, output: Tensor) -> TorchDistributionMixin:
        """The distribution of each number of y; ``output`` may have axes ahead."""

    @abstractmethod
    def cdf(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """P(Y < y) and P(Y ≤ y), number by number; alike where Y is continuous."""

    def check_range(self, y: Tensor) -> None:
        """Raise ``ValueError`` where finite targets are no such numbers."""

    def shape_of(self, output: Tensor) -> tuple[int, ...]:
        """The shape of the targets of an output."""
        return tuple(output.shape)

    takes_integers = False

    def take(self, output: Any) -> Tensor:
        return one_tensor(output)

    def check(self, output: Tensor, y: Any) -> Tensor:
        y = one_for_each(y, self.shape_of(output), "targets", "output")
        if not y.is_floating_point() and (not self.takes_integers or y.dtype == torch.bool):
            raise ValueError(f"targets must be floating point, got {y.dtype}; for labels use bp.classify")
        if not bool(torch.isfinite(y).all()):
            raise ValueError("the targets hold NaN or infinity")
        self.check_range(y)
        return y if y.is_floating_point() else y.to(output.dtype)

    def distribution(self, output: Tensor) -> TorchDistributionMixin:
        return self.each(output).to_event(len(self.shape_of(output)) - 1)

    def log_prob(self, output: Tensor, y: Tensor) -> Tensor:
        return self.distribution(output).log_prob(y)

    def mean(self, output: Tensor) -> Tensor:
        return self.each(output).mean

    def uncertainty(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The variance of the mean over draws, and the mean over draws of the variance, of y's shape."""
        each = self.each(outputs)
        return each.mean.var(0, correction=1 if len(each.mean) > 1 else 0), each.variance.mean(0)

    def losses(self, outputs: Tensor, y: Any) -> Losses:
        y = self.check(outputs[0], y).to(outputs.dtype)
        each, n = self.each(outputs), len(y)
        log_p = each.log_prob(y).reshape(len(outputs), n, -1).sum(-1)
        squared = (each.mean.mean(0) - y).square()
        below, at = (p.mean(0) for p in self.cdf(outputs, y))
        inside = (at >= (1 - LEVEL) / 2) & (below <= (1 + LEVEL) / 2)
        return Losses(
            nll=-mixture(log_p),
            squared=squared.reshape(n, -1).mean(-1),
            inside=inside.reshape(n, -1),
            one_answer=float(y.var(0, correction=0).mean()),
        )

    def learn(self, name: str, value: float | None, what: str) -> None:
        """Hold a number above 0 under ``log_<name>``: as given, or learned from 1 on."""
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {what}, a number above 0, got {value}")
        start = torch.tensor(0.0 if value is None else math.log(value))
        if value is None:
            self.register_parameter(f"log_{name}", nn.Parameter(start))
        else:
            self.register_buffer(f"log_{name}", start)

    def learned(self, name: str, like: Tensor) -> Tensor:
        """The number that :meth:`learn` holds, in the dtype and on the device of ``like``; a param site if learned."""
        log = getattr(self, f"log_{name}")
        log = param_site(f"{self.prefix}{name}.log", log) if isinstance(log, nn.Parameter) else log
        return log.exp().to(like)

    def extra_repr(self) -> str:
        held = [n for n, _ in (*self._parameters.items(), *self._buffers.items()) if n.startswith("log_")]
        told = {n.removeprefix("log_"): getattr(self, n) for n in held}
        return ", ".join(f"{n}={None if isinstance(x, nn.Parameter) else math.exp(x.item())}" for n, x in told.items())
