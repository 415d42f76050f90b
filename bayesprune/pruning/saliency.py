"""Saliency scores per group: the posterior's signal-to-noise ratio, and its rivals (magnitude, random).

Pruning by SNR: Graves 2011, *Practical Variational Inference for Neural Networks*, NeurIPS 24;
Blundell et al. 2015, *Weight Uncertainty in Neural Networks*, arXiv:1505.05424.

A saliency is a function from a net to one number per group; what scores low goes first.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bayesprune.network.bayesian_net import BayesianNet

__all__ = ["Saliency", "magnitude", "random", "snr"]

Saliency = Callable[[BayesianNet], dict[str, Tensor]]


def snr(bnet: BayesianNet) -> dict[str, Tensor]:
    """Posterior signal-to-noise ratio of each group, √(Σ mean² / Σ variance): weight name → grid of groups."""
    return bnet.snr()


@torch.no_grad()
def magnitude(bnet: BayesianNet) -> dict[str, Tensor]:
    """Magnitude of each group: the RMS of its posterior mean, divided by that of its whole weight.

    Without that division one global budget wipes out whole layers, for layers differ in scale.
    """
    energies = bnet.energies()
    scores = {}
    for name, (signal, _) in energies.items():
        p = bnet.posteriors[name]
        size = p.pattern.sizes(p.layout, signal.device)
        alive = p.entries().sum().clamp_min(1)
        unit = signal.sum() / alive
        scores[name] = (signal / size / unit.clamp_min(torch.finfo(signal.dtype).tiny)).sqrt()
    for names in bnet.fates():
        scores.update(dict.fromkeys(names, scores[names[0]]))
    return scores


def random(bnet: BayesianNet) -> dict[str, Tensor]:
    """Random scores, the null rival: a number in (0, 1) for each group that is still kept, 0 for the others."""
    return {name: torch.rand(p.kept.shape, device=p.kept.device) * p.kept for name, p in bnet.posteriors.items()}
