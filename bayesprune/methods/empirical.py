"""Empirical Bayes: prior scales that maximise a mean-field ELBO, in closed form.

At a maximum the gradient through the scale is 0, so it is left out.
"""

import torch
from torch import Tensor

from bayesprune.layout import Layout
from bayesprune.patterns import Pattern

__all__ = ["by_group", "mean_size", "shared"]


@torch.no_grad()
def shared(size: Tensor, share: Tensor) -> Tensor:
    """The mean of ``size`` over entries, each counted by its ``share`` in [0, 1]; above 0 whatever comes.

    >>> shared(torch.tensor([1.0, 3.0, 100.0]), torch.tensor([True, True, False]))
    tensor(2.)
    """
    share = share.to(size.dtype)
    tiny = torch.finfo(size.dtype).tiny
    return (torch.where(share > 0, size * share, 0.0).sum() / share.sum().clamp_min(tiny)).clamp_min(tiny)


@torch.no_grad()
def by_group(second: Tensor, pattern: Pattern, layout: Layout) -> Tensor:
    """The root mean of ``second`` over each group, spread over its entries; above 0 whatever comes."""
    mean = pattern.pool(second, layout) / pattern.sizes(layout, second.device)
    return pattern.expand(mean.clamp_min(torch.finfo(second.dtype).tiny).sqrt(), layout)


@torch.no_grad()
def mean_size(loc: Tensor, scale: Tensor) -> Tensor:
    """E|w| of N(loc, scale²), the folded normal's mean.

    >>> mean_size(torch.tensor([0.0, 5.0]), torch.tensor([1.0, 0.1]))
    tensor([0.7979, 5.0000])
    """
    folded = torch.distributions.Normal(torch.zeros_like(loc), scale, validate_args=False)
    return 2 * scale.square() * folded.log_prob(loc).exp() + loc * torch.erf(loc / (scale * 2**0.5))
