"""Bit widths per weight that the posterior's uncertainty allows."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.network.state import PosteriorState
from bayesprune.pruning.masking import check_masks

__all__ = ["bit_widths"]


@torch.no_grad()
def bit_widths(
    bnet: BayesianNet, masks: Mapping[str, Tensor], *, state: PosteriorState | None = None
) -> dict[str, int | None]:
    """The fewest bits in which integers with a scale per output lose no more than the posterior noise drowns.

    An output whose largest kept weight is m is held on a grid of step s = m / (2^(b − 1) − 1), so that no weight is off
    by more than s / 2, its unit round-off. b is the least, from 2 on, for which these round-offs have no more energy
    than the posterior's noise: ``Σ (s / 2)² ≤ Σ σ²``, both over the kept weights of the tensor. Errors are spread over
    the step, and then have the energy s² / 12: a third of that noise at most, under which the net was trained.
    An sd half as large takes one bit more.

    Louizos, Ullrich & Welling 2017, *Bayesian Compression for Deep Learning*, arXiv:1705.08665, set a tensor's unit
    round-off by its mean posterior variance likewise; their bits are a sign, significand and exponent, and the mean
    variance stands there in place of its root, as their published code has it.

    Args:
        bnet: the net with its posterior, fitted.
        masks: weight name → bool, as :func:`bayesprune.masks` gives.
        state: ``bnet.state()`` where it is at hand; by default it is made here.

    Returns:
        Weight name → bits, the sign among them; ``None`` where the kept weights have no variance (a method without a
        posterior) or nothing is kept. :func:`bayesprune.export` takes it as ``bits``.

    Raises:
        ValueError: a mask that does not fit, or variances that are NaN.

    >>> from bayesprune import Deterministic, SparseVD, masks
    >>> net = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 3))
    >>> bnet = BayesianNet(net, {"0.weight": SparseVD(), "1.weight": Deterministic()})
    >>> bit_widths(bnet, masks(bnet, keep=0.98))
    {'0.weight': 4, '1.weight': None}
    """
    check_masks(bnet, masks)
    moments = (bnet.state() if state is None else state).moments
    return {name: _bits(bnet, name, *moments[name], mask) for name, mask in masks.items()}


def _bits(bnet: BayesianNet, name: str, mean: Tensor, variance: Tensor, mask: Tensor) -> int | None:
    layout = bnet.posteriors[name].layout
    if not mask.numel():
        return None
    kept = layout.matrix(mask.to(mean.device))
    largest = torch.where(kept, layout.matrix(mean).abs().double(), 0).amax((2, 3), keepdim=True)
    reach = float((largest.square() * kept).sum())
    noise = float(torch.where(kept, layout.matrix(variance).double(), 0).sum())
    if math.isnan(noise + reach):
        raise ValueError(f"the posterior of {name!r} holds NaN: the fit has diverged")
    if noise == 0:
        return None
    steps = max(1, math.ceil(math.sqrt(reach / (4 * noise))))  # from 0 to an output's largest weight
    return 1 + math.ceil(math.log2(steps + 1))
