"""Measure what a pruned net is worth: against the dense net, and against magnitude pruning at the same sparsity."""

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.likelihoods import call
from bayesprune.masking import EmptyLayerWarning, masks
from bayesprune.methods.deterministic import Deterministic
from bayesprune.network import BayesianNet
from bayesprune.prediction import draw_outputs, evaluating, run_over
from bayesprune.saliency import magnitude
from bayesprune.scoring import Score, score
from bayesprune.sparse import Plan, export, save
from bayesprune.sparse.race import race

__all__ = ["ModelRow", "Rival", "verify"]

Masks = Mapping[str, Tensor]
Rival = tuple[Mapping[str, Tensor], Masks]
"""Another pruned net to stand beside: its parameters and buffers by name, and its masks."""


@dataclass(frozen=True)
class ModelRow:
    """One model in the comparison.

    Attributes:
        name: what it is.
        score: its figures on the data set.
        kept: the fraction of the matched weights' entries that it keeps.
        nbytes: its size on disk in bytes; ``None`` for a rival that is ranked only.
        seconds: the median time of one forward pass on the example; ``None`` where not timed.
        speedup: the dense net's median over its own, measured in turns.
    """

    name: str
    score: Score
    kept: float
    nbytes: int | None = None
    seconds: float | None = None
    speedup: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        figures = {k: v for k, v in vars(self.score).items() if v is not None}
        return {**{k: v for k, v in vars(self).items() if k != "score"}, **figures}


@torch.no_grad()
def verify(
    bnet: BayesianNet,
    kept: Masks,
    loader: Iterable[Any],
    plan: Plan,
    example: Any,
    *,
    draws: int = 20,
    rivals: Mapping[str, Rival],
) -> list[ModelRow]:
    """Score, weigh and time the models that a report compares: on ``loader`` and on ``example``, timed in turns.

    Returns:
        The rows: the dense net, the packed posterior mean, the posterior predictive through the same support, the dense
        net cut by magnitude without training, the same posterior ranked by |mean| where that keeps others, the rivals.
        The packed net is the one that is scored, not a masked stand-in.
    """
    device = next(iter(bnet.parameters())).device
    dense = copy.deepcopy(bnet.net).to(device).eval()
    values = {**dict(dense.named_parameters()), **dict(dense.named_buffers())}
    means = bnet.means()
    packed = export(dense, means, kept, example=example, plan=plan)
    sds = {name: var.sqrt() for name, (_, var) in bnet.moments().items()}
    spread = export(dense, {**means, **sds}, kept, example=example, plan=plan)
    by_mean, one_shot = _of_the_same_size(bnet, means, kept), _of_the_same_size(bnet, values, kept)

    def of(forward: Callable[..., Any]) -> Score:
        outputs, targets = run_over(forward, loader, device)
        return score(bnet.observation, outputs[None], targets)

    def masked(weights: Mapping[str, Tensor], mask: Masks) -> Callable[..., Any]:
        return partial(bnet.run, {**weights, **{name: weights[name] * m for name, m in mask.items()}})

    def drawn(*inputs: Any, **named: Any) -> None:
        for _ in range(draws):
            masked(bnet.draw(), kept)(*inputs, **named)

    many = f"posterior predictive, {draws} draws"
    with evaluating(bnet):
        predictive = score(bnet.observation, *draw_outputs(bnet, loader, draws, kept))
        rows = [
            ModelRow("dense", of(dense), 1.0, _on_disk(dense)),
            ModelRow("posterior mean, pruned", of(packed), _density(kept), _on_disk(packed)),
            ModelRow(many, predictive, _density(kept), _on_disk(packed) + _on_disk(spread)),
            ModelRow("dense net, one-shot magnitude", of(masked(values, one_shot)), _density(one_shot)),
        ]
        if any(not torch.equal(by_mean[name], mask) for name, mask in kept.items()):  # the fit left something to rank
            rows.append(ModelRow("same posterior, ranked by |mean|", of(masked(means, by_mean)), _density(by_mean)))
        runs: dict[str, Callable[..., Any]] = {"dense": dense, "posterior mean, pruned": packed}
        for name, (rival_means, rival_masks) in rivals.items():
            runs[name] = rival = export(dense, rival_means, rival_masks, example=example)
            rows.append(ModelRow(name, of(rival), _density(rival_masks), _on_disk(rival)))
        calls = {name: partial(call, run, example) for name, run in runs.items()}
        seconds = race(calls, device=device, budget=1.0, rounds=101)
        slow = race({"dense": calls["dense"], many: partial(call, drawn, example)}, device=device)
        ratio = {name: seconds["dense"] / s for name, s in seconds.items()} | {many: slow["dense"] / slow[many]}
        seconds[many] = slow[many]
    return [replace(r, seconds=seconds.get(r.name), speedup=ratio.get(r.name)) for r in rows]


def _density(kept: Masks) -> float:
    return sum(int(m.sum()) for m in kept.values()) / max(sum(m.numel() for m in kept.values()), 1)


def _on_disk(module: nn.Module) -> int:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(module, path)
        return path.stat().st_size


def _of_the_same_size(bnet: BayesianNet, values: Mapping[str, Tensor], kept: Masks) -> Masks:
    """Masks over the same groups with as many entries in all as ``kept``, by the size of ``values`` in each layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyLayerWarning)  # what a rival empties is the rival's own figure
        rival = BayesianNet(bnet.net, {name: Deterministic(p.pattern) for name, p in bnet.posteriors.items()})
        for name, posterior in rival.posteriors.items():
            posterior.get_parameter("loc").copy_(values[name])
        found = masks(rival, keep=max(_density(kept), 1e-9), saliency=magnitude)
    return {name: mask.to(kept[name].device) for name, mask in found.items()}
