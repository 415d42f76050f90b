"""The KL divergence of a log-normal from a half-Cauchy, by one-dimensional quadrature.

For the horseshoe's scales: Louizos, Ullrich & Welling 2017, *Bayesian Compression for Deep Learning*, arXiv:1705.08665.
"""

import math
from functools import cache

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import register_kl

__all__ = ["hermite"]


@cache
def _nodes(n: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    x, w = np.polynomial.hermite_e.hermegauss(n)
    return tuple(x), tuple(w / math.sqrt(2 * math.pi))


def hermite(loc: Tensor, scale: Tensor, n: int = 32) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes of N(loc, scale²), in a new last axis, and their weights, which sum to 1.

    >>> x, w = hermite(torch.tensor(1.0), torch.tensor(2.0))
    >>> (x.square() * w).sum()
    tensor(5.0000)
    """
    x, w = (torch.tensor(v, dtype=loc.dtype, device=loc.device) for v in _nodes(n))
    return loc[..., None] + scale[..., None] * x, w


@register_kl(dist.LogNormal, dist.HalfCauchy)
def _kl_log_normal_half_cauchy(q: dist.LogNormal, p: dist.HalfCauchy) -> Tensor:
    """E_q[log q − log p] with u = log z normal, log p(z) = log(2/π) − log γ − log(1 + e^{2(u − log γ)})."""
    u, w = hermite(q.loc - p.scale.log(), q.scale)
    tail = (torch.nn.functional.softplus(2 * u) * w).sum(-1)
    entropy = q.loc + 0.5 * math.log(2 * math.pi * math.e) + q.scale.log()
    return tail - entropy - math.log(2 / math.pi) + p.scale.log()
