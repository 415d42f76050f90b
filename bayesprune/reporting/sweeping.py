"""Sparsity sweep: the error at each budget, ranked by the posterior and by its rivals."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from bayesprune._copies import copied
from bayesprune.corruptions import Corruption
from bayesprune.evaluation.prediction import draw_outputs, evaluating
from bayesprune.evaluation.scoring import Score, score
from bayesprune.evaluation.verification import density, masked_forward, score_forward
from bayesprune.fitting.batches import split
from bayesprune.fitting.generators import seeded
from bayesprune.fitting.given import batches_of, net_of
from bayesprune.fitting.supervised import SupervisedModel
from bayesprune.likelihoods.batch import call
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.network.state import PosteriorState
from bayesprune.pruning.masking import BudgetWarning, EmptyLayerWarning, Scope, check_keep, masks
from bayesprune.pruning.saliency import Saliency, magnitude, random, snr
from bayesprune.reporting.curve import UNPRUNED, Curve, Point
from bayesprune.sparse import export, nbytes
from bayesprune.sparse.surgery.masked import masked_copy
from bayesprune.sparse.timing.interleaved import time_interleaved

__all__ = ["sweep"]


def sweep(
    bnets: BayesianNet | SupervisedModel | Sequence[BayesianNet | SupervisedModel],
    loader: Any,
    *,
    keep: Sequence[float] = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01),
    saliencies: Sequence[Saliency] = (snr, magnitude, random),
    scope: Scope = "global",
    seeds: Sequence[int] = (0,),
    draws: int | None = None,
    corruptions: Sequence[Corruption] = (),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    latency: bool = False,
) -> Curve:
    """Prune to each budget by each ranking, and score what is left.

    Args:
        bnets: the net with its posterior, fitted; or several, fits with different seeds, for a spread. What a schedule
            pruned while fitting stays pruned, so a fit without one shows the whole curve.
        loader: batches ``(x, y)`` in a fixed order, a ``Dataset``, or one batch.
        keep: fractions of the entries of all matched weights to keep, in (0, 1].
        saliencies: what ranks groups, such as :func:`bayesprune.snr`; told apart by their names.
        scope: whether a budget is one for all weights together or one for each.
        seeds: each fixes what is random (a random ranking, draws, corruptions) and gives points of its own; the global
            generator is left as it was.
        draws: score the posterior predictive of so many draws; by default the posterior mean.
        corruptions: of :mod:`bayesprune.corruptions`: each point is scored again on the images that they spoil.
        severities: how badly.
        latency: whether to pack each pruned net and time it beside the dense one on the first batch: about a second a
            point.

    Returns:
        A point for each net, seed, ranking and budget, and the unpruned net; under each corruption as well.

    Raises:
        TypeError: no net with a posterior, or no data.
        ValueError: a budget out of range, no budgets, saliencies, seeds or data, two saliencies of one name, no
            targets, or no observation model.

    >>> from bayesprune import SparseVD, classify
    >>> bnet = BayesianNet(torch.nn.Sequential(torch.nn.Linear(40, 3)), {"0.weight": SparseVD()})
    >>> model = classify(bnet, size=6)
    >>> curve = sweep(bnet, [(torch.randn(6, 40), torch.arange(6) % 3)], keep=[0.5, 0.1], saliencies=[snr])
    >>> [(point.saliency, point.weights) for point in curve.points]
    [('unpruned', 120), ('snr', 60), ('snr', 12)]
    """
    nets = [net_of(bnet) for bnet in (bnets if isinstance(bnets, Sequence) else [bnets])]
    names = [getattr(saliency, "__name__", str(saliency)) for saliency in saliencies]
    for what, given in (("nets", nets), ("keep", keep), ("saliencies", names), ("seeds", seeds)):
        if not len(given):
            raise ValueError(f"sweep needs at least one of {what}, got none")
    for fraction in keep:
        check_keep(fraction, scope)
    if len({*names, UNPRUNED}) <= len(names):
        raise ValueError(f"saliencies are told apart by their names, which must differ: got {names}")
    if draws is not None and draws < 1:
        raise ValueError(f"draws is an integer ≥ 1, or None for the posterior mean, got {draws}")
    batches: Iterable[Any] = list(loader) if isinstance(loader, Iterator) else batches_of(loader, scored=True)
    with seeded(seeds[0]):
        example = _inputs(nets[0], next(iter(batches), None))
        points: list[Point] = []
        for index, bnet in enumerate(nets):
            state = bnet.state()
            for seed in seeds:
                kept = {(UNPRUNED, 1.0): {name: p.entries() for name, p in bnet.posteriors.items()}}
                for (name, saliency), k in product(zip(names, saliencies, strict=True), keep):
                    kept[name, k] = _pruned(bnet, state, saliency, k, scope, seed)
                size = {of: _size(bnet, state.values, mask, example if latency else None) for of, mask in kept.items()}
                for corrupt, severity in [(None, 0), *product(corruptions, severities)]:
                    shown = batches if corrupt is None else _spoilt(batches, corrupt, severity, seed)
                    spoilt: dict[str, Any] = {"corruption": corrupt.__name__ if corrupt else None, "severity": severity}
                    scores = {of: _score(bnet, state.values, mask, shown, draws, seed) for of, mask in kept.items()}
                    for of, found in scores.items():
                        rise = _worst(scores[UNPRUNED, 1.0], found) if of[0] != UNPRUNED else {}
                        points.append(Point(of[0], index, seed, of[1], score=found, **size[of], **rise, **spoilt))
    return Curve(tuple(points))


def _pruned(
    bnet: BayesianNet, state: PosteriorState, saliency: Saliency, keep: float, scope: Scope, seed: int
) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        for category in (BudgetWarning, EmptyLayerWarning):  # how deep is too deep is what a sweep is to show
            warnings.simplefilter("ignore", category)
        return masks(bnet, keep=keep, scope=scope, saliency=saliency, state=state)


def _score(
    bnet: BayesianNet,
    means: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    batches: Iterable[Any],
    draws: int | None,
    seed: int,
) -> Score:
    if draws is not None:
        torch.manual_seed(seed)
        return score(bnet.observation, *draw_outputs(bnet, batches, draws, kept))
    with evaluating(bnet):
        return score_forward(bnet, masked_forward(bnet, means, kept), batches)


def _inputs(bnet: BayesianNet, batch: Any) -> Any:
    if batch is None:
        raise ValueError("the loader holds no batches")
    x, y = split(bnet, batch)
    if y is None:
        raise ValueError("the loader yields no targets: sweep scores batches (x, y)")
    return x


def _size(
    bnet: BayesianNet, means: Mapping[str, Tensor], kept: Mapping[str, Tensor], example: Any | None
) -> dict[str, Any]:
    """How much is kept, and how fast it runs on an example."""
    found: dict[str, Any] = {
        "kept": density(kept),
        "weights": sum(int(mask.sum()) for mask in kept.values()),
        "nbytes": nbytes(masked_copy(bnet.net, means, kept), stored=True),
    }
    if example is not None:
        device = next(iter(bnet.parameters())).device
        example = send_to_device(example, device)
        dense = copied(bnet.net).to(device).eval()
        packed = export(dense, means, kept, example=example)
        runs = {"dense": partial(call, dense, example), "packed": partial(call, packed, example)}
        seconds = time_interleaved(runs, device=device)
        found |= {"seconds": seconds["packed"], "speedup": seconds["dense"] / seconds["packed"]}
    return found


def _spoilt(batches: Iterable[Any], corrupt: Corruption, severity: int, seed: int) -> list[tuple[Tensor, Any]]:
    found = []
    for i, batch in enumerate(batches):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[0], Tensor):
            raise ValueError(
                f"corruptions are of images: batches are then (x, y) with one x, got {type(batch).__name__}"
            )
        found.append((corrupt(batch[0], severity, seed=seed + i), batch[1]))
    return found


def _worst(before: Score, after: Score) -> dict[str, Any]:
    """The class whose error rose most, and by how much."""
    if before.class_errors is None or after.class_errors is None:
        return {}
    rises = [a - b for b, a in zip(before.class_errors, after.class_errors, strict=True)]
    worst = max((k for k, rise in enumerate(rises) if not math.isnan(rise)), key=rises.__getitem__)
    return {"worst_class": worst, "worst_rise": rises[worst]}
