"""Saliency scores per group: the posterior's signal-to-noise ratio, and its rivals (magnitude, LAMP, random).

Pruning by SNR: Graves 2011, *Practical Variational Inference for Neural Networks*, NeurIPS 24;
Blundell et al. 2015, *Weight Uncertainty in Neural Networks*, arXiv:1505.05424.

A saliency is a function from a net to one number per group; what scores low goes first.
"""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.network.state import PosteriorState

__all__ = ["Saliency", "lamp", "magnitude", "random", "snr"]

Saliency = Callable[[BayesianNet], dict[str, Tensor]]


def of_state(read: Callable[[PosteriorState], dict[str, Tensor]]) -> Saliency:
    """A saliency that a posterior's state alone decides; ``read`` stays within reach, for where a state is at hand."""

    @wraps(read)
    def saliency(bnet: BayesianNet) -> dict[str, Tensor]:
        return read(bnet.state())

    saliency.of_state = read  # type: ignore[attr-defined]
    return saliency


@of_state
def snr(state: PosteriorState) -> dict[str, Tensor]:
    """Posterior signal-to-noise ratio of each group, √(Σ mean² / Σ variance): weight name → grid of groups."""
    return state.snr


@of_state
def magnitude(state: PosteriorState) -> dict[str, Tensor]:
    """Magnitude of each group: the RMS of its posterior mean, divided by that of its whole weight.

    Without that division one global budget wipes out whole layers, for layers differ in scale.
    """
    found = {}
    for name, (signal, _) in state.energies.items():
        grid = state.grids[name]
        unit = signal.sum() / grid.entries().sum().clamp_min(1)
        found[name] = (signal / grid.sizes() / unit.clamp_min(torch.finfo(signal.dtype).tiny)).sqrt()
    for names in state.coupled:
        found.update(dict.fromkeys(names, found[names[0]]))
    return found


@of_state
def lamp(state: PosteriorState) -> dict[str, Tensor]:
    """Layer-adaptive magnitude of each group: its energy, divided by that of all in its weight that are not smaller.

    So a weight's largest group scores 1, and no layer is emptied before all are down to one group.
    Lee et al. 2021, *Layer-adaptive Sparsity for the Magnitude-based Pruning*, arXiv:2010.07611.
    """
    found = {}
    for name, (signal, _) in state.energies.items():
        energy = signal.flatten() / state.grids[name].sizes().flatten()
        order = energy.argsort(stable=True)
        ascending = energy[order].double()
        rest = ascending.flip(0).cumsum(0).flip(0).clamp_min(torch.finfo(signal.dtype).tiny)
        score = torch.empty_like(energy)
        score[order] = (ascending / rest).to(energy.dtype)
        found[name] = score.reshape(signal.shape)
    for names in state.coupled:
        found.update(dict.fromkeys(names, found[names[0]]))
    return found


@of_state
def random(state: PosteriorState) -> dict[str, Tensor]:
    """Random scores, the null rival: a number in (0, 1) for each group that is still kept, 0 for the others."""
    return {name: torch.rand(kept.shape, device=kept.device) * kept for name, kept in state.kept.items()}
