"""Base class of priors without learned parameters: a batch shape, and the dtype and device of their draws."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["Prior"]


class Prior(dist.TorchDistribution):
    """A distribution over independent entries that is known by a few numbers.

    Args:
        shape: the batch shape.
        like: a tensor whose dtype and device draws have; by default torch's default dtype, on the CPU.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, shape: torch.Size | tuple[int, ...], like: Tensor | None = None) -> None:
        self.like = torch.empty(0) if like is None else like.new_empty(0)
        super().__init__(torch.Size(shape), validate_args=False)

    def blank(self, sample_shape: torch.Size) -> Tensor:
        """A tensor for draws of ``sample_shape``, to be filled."""
        return self.like.new_empty(torch.Size(sample_shape) + self.batch_shape)
