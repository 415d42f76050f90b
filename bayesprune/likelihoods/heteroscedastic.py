"""Real targets with a noise of their own: the net gives its variance too."""

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from bayesprune.likelihoods.base import one_tensor
from bayesprune.likelihoods.numbers import Numbers

__all__ = ["Heteroscedastic"]


class Heteroscedastic(Numbers):
    """Real targets, normal around a mean with a variance, both of which the net gives for each example.

    The net returns two tensors of y's shape, the mean and the *logarithm* of the variance; a mapping that calls them
    ``mean`` and ``log_variance``; or one tensor whose last axis holds all means, then all log-variances.
    ``torch.nn.GaussianNLLLoss(full=True)`` of the exponential, summed over an example's numbers.

    Kendall & Gal 2017, *What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?*,
    arXiv:1703.04977, section 3.

    >>> output = Heteroscedastic().take(torch.zeros(2, 2))  # mean 0, variance 1
    >>> Heteroscedastic().log_prob(output, torch.zeros(2, 1))
    tensor([-0.9189, -0.9189])
    """

    def take(self, output: Any) -> Tensor:
        """Means and log-variances side by side along a last axis of two."""
        if isinstance(output, Mapping) and {"mean", "log_variance"} <= output.keys():
            output = output["mean"], output["log_variance"]
        if isinstance(output, (tuple, list)):
            parts = list(output)
            if (
                len(parts) != 2
                or not all(isinstance(part, Tensor) for part in parts)
                or parts[0].shape != parts[1].shape
            ):
                shapes = [tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__ for p in parts]
                raise ValueError(f"the net must return a mean and a log-variance of one shape, got {shapes}")
            return torch.stack(parts, -1)
        both = one_tensor(output)
        if both.dim() < 2 or both.shape[-1] % 2:
            raise ValueError(
                f"the net returns {tuple(both.shape)}: the last axis must hold all means, then as many log-variances"
            )
        return torch.stack(both.chunk(2, -1), -1)

    def shape_of(self, output: Tensor) -> tuple[int, ...]:
        return tuple(output.shape[:-1])

    def each(self, output: Tensor) -> TorchDistributionMixin:
        mean, log_variance = output.unbind(-1)
        return dist.Normal(mean, (0.5 * log_variance).exp(), validate_args=False)

    def cdf(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = output.unbind(-1)
        at = torch.special.ndtr((y - mean) * (-0.5 * log_variance).exp())
        return at, at
