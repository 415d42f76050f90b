"""A normal distribution whose draws carry mean and variance, for the local reparameterization trick.

Kingma, Salimans & Welling 2015, *Variational Dropout and the Local Reparameterization Trick*, arXiv:1506.02557.
"""

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprune.draws.gaussian import GaussianDraw

__all__ = ["LazyNormal"]


class LazyNormal(dist.Normal):
    """N(loc, scale²), a drop-in for ``pyro.distributions.Normal`` whose single draw carries its moments.

    ``rsample()`` gives a :class:`~bayesprune.draws.gaussian.GaussianDraw`; with a sample shape it draws as
    usual. Closed-form KLs registered for ``Normal`` hold for it too.

    >>> LazyNormal(torch.zeros(3), torch.ones(3)).rsample()
    GaussianDraw(shape=(3,), dtype=torch.float32)
    """

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = False) -> None:
        super().__init__(loc, scale, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "LazyNormal":
        return LazyNormal(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        if len(sample_shape):
            return super().rsample(sample_shape)
        return GaussianDraw(self.loc, self.scale.square())
