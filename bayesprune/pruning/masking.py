"""Masks from saliency scores, patterns and a budget or threshold."""

import warnings
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.network.state import PosteriorState
from bayesprune.pruning.saliency import Saliency
from bayesprune.pruning.saliency import snr as snr_of

__all__ = ["BudgetWarning", "EmptyLayerWarning", "Scope", "check_keep", "check_masks", "masks", "select"]

Scope = Literal["global", "layer"]


class EmptyLayerWarning(UserWarning):
    """A layer of which nothing is kept: no signal passes it."""


class BudgetWarning(UserWarning):
    """A budget that cuts far past what the posterior itself holds to be noise."""


def check_keep(keep: float, scope: str = "global") -> None:
    """Raise ``ValueError`` unless ``keep`` is a fraction in (0, 1] and ``scope`` is known."""
    if not isinstance(keep, (int, float)) or isinstance(keep, bool) or not 0 < keep <= 1:
        raise ValueError(f"keep is the fraction of entries to keep, in (0, 1], got {keep!r}")
    if scope not in get_args(Scope):
        raise ValueError(f"scope is one of {get_args(Scope)}, got {scope!r}")


def check_net(bnet: BayesianNet) -> None:
    """Raise ``ValueError`` where ``bnet`` is no net with a posterior."""
    if not isinstance(bnet, BayesianNet):
        raise ValueError(f"expected a BayesianNet, got {type(bnet).__name__}: bp.BayesianNet(net, rules) makes one")


def check_masks(bnet: BayesianNet, masks: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` where a mask names no weight of ``bnet`` or has not its shape."""
    check_net(bnet)
    if not isinstance(masks, Mapping):
        raise ValueError(f"masks must be a dict of name -> bool tensor, got {type(masks).__name__}")
    for name, mask in masks.items():
        if name not in bnet.posteriors:
            raise ValueError(f"masks name {name!r}, which has no posterior; the weights are {list(bnet.posteriors)}")
        shape = bnet.posteriors[name].layout.shape
        if not isinstance(mask, Tensor) or tuple(mask.shape) != shape or mask.dtype != torch.bool:
            got = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"the mask of {name!r} must be bool of shape {shape}, got {got}")


@torch.no_grad()
def masks(
    bnet: BayesianNet,
    *,
    keep: float | None = None,
    snr: float | None = None,
    scope: Scope = "global",
    saliency: Saliency = snr_of,
    state: PosteriorState | None = None,
) -> dict[str, Tensor]:
    """Decide what stays: a budget, a threshold on SNR, or else each method's own rule.

    Args:
        bnet: the net with its posterior. What a schedule pruned while fitting stays pruned.
        keep: the fraction of the entries of all matched weights to keep, in (0, 1], to within one group.
        snr: keep the groups whose posterior signal-to-noise ratio is at least this. Without ``keep`` and ``snr``, what
            each method's paper keeps stays: by its SNR threshold, or by gate, inclusion or scale.
        scope: whether ``keep`` is one budget for all weights together or one for each.
        saliency: what ranks groups for ``keep``.
        state: ``bnet.state()`` where it is at hand; by default it is made here.

    Returns:
        Weight name → bool of the weight's own shape.

    Raises:
        ValueError: both of ``keep`` and ``snr``, one out of range, or none where a method has no rule of its own.

    Warns:
        EmptyLayerWarning: a weight of which nothing is kept.
        BudgetWarning: ``keep`` is under half of what the method's own rule keeps.

    >>> from bayesprune.methods import SparseVD
    >>> bnet = BayesianNet(torch.nn.Sequential(torch.nn.Linear(10, 10)), {"0.weight": SparseVD()})
    >>> int(masks(bnet, keep=0.6)["0.weight"].sum())
    60
    """
    if keep is not None and snr is not None:
        raise ValueError("masks takes keep= (a fraction) or snr= (a threshold), or neither, not both")
    check_net(bnet)
    check_keep(1.0 if keep is None else keep, scope)
    state = bnet.state() if state is None else state
    if keep is not None:
        read = getattr(saliency, "of_state", None)  # no need to compute it again
        kept = select(bnet, read(state) if read else saliency(bnet), keep, scope, state=state)
        _warn_of_budget(bnet, state, kept, keep)
    else:
        if snr is not None and not snr >= 0:
            raise ValueError(f"snr is a threshold ≥ 0 on the signal-to-noise ratio, got {snr!r}")
        above = {n: s >= snr for n, s in state.snr.items()} if snr is not None else _by_own_rule(bnet, state)
        for name in state.snr.keys() - above.keys():
            raise ValueError(
                f"{type(bnet.methods[name]).__name__} over {name!r} has no rule of its own, for its paper leaves the "
                "threshold open: say keep= (a fraction) or snr= (a threshold)"
            )
        kept = {n: allowed & above[n] for n, allowed in _allowed(bnet, state.snr).items()}
    result = {}
    for name, posterior in bnet.posteriors.items():
        result[name] = posterior.pattern.expand(kept[name], posterior.layout).clone()
        if not bool(result[name].any()):
            warnings.warn(
                f"nothing of {name!r} is kept: no signal passes it; keep more, or give it a budget of its own "
                "with scope='layer'",
                EmptyLayerWarning,
                stacklevel=3,  # past no_grad's own frame
            )
    return result


def select(
    bnet: BayesianNet,
    scores: Mapping[str, Tensor],
    keep: float,
    scope: Scope = "global",
    *,
    state: PosteriorState | None = None,
) -> dict[str, Tensor]:
    """The highest scores within a budget: weight name → bool over the grid of groups.

    Groups that tie (an infinite signal-to-noise ratio, say) are ranked by their mean square: by ``state``, where that
    is at hand.
    """
    for joined in bnet.coupled():  # one score for one decision, whatever the saliency
        shared = torch.stack([scores[name] for name in joined]).mean(0)
        scores = {**scores, **dict.fromkeys(joined, shared)}
    allowed = _allowed(bnet, scores)
    names = list(bnet.posteriors)
    if not names:
        return {}
    kept: dict[str, Tensor] = {}
    for together in [names] if scope == "global" else [[name] for name in names]:
        kept.update(_take(bnet, scores, allowed, together, keep, state))
    for joined in bnet.coupled():
        stays = torch.stack([kept[name] for name in joined]).all(0)
        kept.update({name: stays.clone() for name in joined})
    return kept


def _by_own_rule(bnet: BayesianNet, state: PosteriorState) -> dict[str, Tensor]:
    """Weight name → the groups that the method's paper keeps; a weight whose method has no rule is left out."""
    found: dict[str, Tensor] = {}
    for name, posterior in bnet.posteriors.items():
        threshold = bnet.methods[name].snr_threshold
        relevant = posterior.kept_by_paper() if threshold is None else state.snr[name] >= threshold
        if relevant is not None:
            found[name] = relevant
    for joined in bnet.coupled():
        if all(name in found for name in joined):
            stays = torch.stack([found[name] for name in joined]).any(0)
            found.update({name: stays.clone() for name in joined})
    return found


def _allowed(bnet: BayesianNet, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The groups that are not pruned already and that the pattern's own rule lets stay."""
    found = {}
    for name, p in bnet.posteriors.items():
        score = torch.where(p.kept, scores[name], -torch.inf)
        found[name] = p.kept & p.pattern.allowed(score, p.layout)
    return found


def _take(
    bnet: BayesianNet,
    scores: Mapping[str, Tensor],
    allowed: Mapping[str, Tensor],
    names: list[str],
    keep: float,
    state: PosteriorState | None,
) -> dict[str, Tensor]:
    posteriors = bnet.posteriors
    sizes = [posteriors[n].pattern.sizes(posteriors[n].layout, allowed[n].device) for n in names]
    budget = keep * sum(int(s.sum()) for s in sizes)
    fit = torch.cat([allowed[n].flatten() for n in names])
    score = torch.cat([scores[n].flatten().double() for n in names])
    size = torch.cat([s.flatten() for s in sizes])
    order = torch.argsort(score, descending=True, stable=True)
    if bool(torch.isinf(score).any()):
        energies = (bnet.state() if state is None else state).energies
        means = torch.cat([energies[n][0].flatten() for n in names]) / size
        order = torch.argsort(means, descending=True, stable=True)
        order = order[torch.argsort(score[order], descending=True, stable=True)]
    order = order[fit[order]]
    # a group is taken while half of it still fits: the kept fraction ends within one group of the budget
    filled = size[order].cumsum(0) - 0.5 * size[order]
    taken = torch.zeros_like(fit)
    taken[order[filled <= budget]] = True
    parts = taken.split([int(allowed[n].numel()) for n in names])
    return {n: part.reshape(allowed[n].shape) for n, part in zip(names, parts, strict=True)}


def _warn_of_budget(bnet: BayesianNet, state: PosteriorState, kept: Mapping[str, Tensor], keep: float) -> None:
    natural = chosen = total = 0
    for name, relevant in _by_own_rule(bnet, state).items():
        p = bnet.posteriors[name]
        size = p.pattern.sizes(p.layout, p.kept.device)
        natural += int((size * (relevant & p.kept)).sum())
        chosen += int((size * kept[name]).sum())
        total += int(size.sum())
    if total and chosen < 0.5 * natural:
        warnings.warn(
            f"keep={keep:g} leaves {chosen / total:.2%} of the weights, and {natural / total:.2%} are kept by the "
            "method's own rule: cutting a finished posterior this deep costs accuracy; prune while fitting, "
            "fit(…, prune=Cubic(keep=…))",
            BudgetWarning,
            stacklevel=4,
        )
