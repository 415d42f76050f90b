"""Compare a pruned net with the dense net and with magnitude pruning at the same sparsity."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from bayesprune._copies import copied
from bayesprune.evaluation.passes import steady
from bayesprune.evaluation.prediction import draw_outputs, evaluating, known_observation, run_over
from bayesprune.evaluation.scoring import Losses, Score, losses, score, summary
from bayesprune.fitting.given import batches_of, net_of
from bayesprune.fitting.supervised import SupervisedModel
from bayesprune.likelihoods.batch import call
from bayesprune.methods.deterministic import Deterministic
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.network.state import PosteriorState
from bayesprune.pruning.masking import EmptyLayerWarning, masks
from bayesprune.pruning.saliency import magnitude
from bayesprune.sparse import Compressed, Plan, compressed, export, save
from bayesprune.sparse.saving.byte_counts import ByteCount, byte_counts
from bayesprune.sparse.surgery.masked import masked_copy
from bayesprune.sparse.timing.interleaved import time_interleaved

__all__ = [
    "ModelRow",
    "Rival",
    "Role",
    "Verification",
    "density",
    "masked_forward",
    "on_disk",
    "score_forward",
    "verify",
]

Masks = Mapping[str, Tensor]
Rival = tuple[Mapping[str, Tensor], Masks]
"""Another pruned net to stand beside: its parameters and buffers by name, and its masks."""
Outputs = tuple[Any, Any]
"""What the likelihood reads of a net's output on each draw and example, and the targets."""


class Role(StrEnum):
    """What a model is in a comparison, and what its row is called; one that was trained elsewhere has its own name."""

    DENSE = "dense"
    CONTROL = "dense control"
    PRUNED = "posterior mean, pruned"
    PREDICTIVE = "posterior predictive"
    ONE_SHOT = "dense net, one-shot magnitude"
    BY_MEAN = "same posterior, ranked by |mean|"
    TRAINED = "trained rival"

    @property
    def rival(self) -> bool:
        """Whether it is pruned in another way than by the posterior."""
        return self in (Role.ONE_SHOT, Role.BY_MEAN, Role.TRAINED)


@dataclass(frozen=True)
class ModelRow:
    """One model in the comparison.

    Attributes:
        name: what it is called.
        role: what it is; one of each, but for rivals that were trained elsewhere.
        score: its figures on the data set.
        kept: the fraction of the matched weights' entries that it keeps.
        nbytes: its size on disk in bytes; ``None`` where it was not saved.
        seconds: the median time of one forward pass on the example; ``None`` where not timed.
        speedup: the dense net's median over its own, measured in turns.
    """

    name: str
    role: Role
    score: Score
    kept: float
    nbytes: int | None = None
    seconds: float | None = None
    speedup: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        figures = self.score.to_dict()
        plain = {k: v for k, v in vars(self).items() if k not in ("score", "role")}
        return {**plain, "role": self.role.name.lower(), **figures}


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` measured.

    Attributes:
        rows: the models.
        losses: by a row's name, how it fares on each observation.
        outputs: what the likelihood reads of the net's output on each example, of each dense net and of the packed one.
        targets: what the loader said it should be.
        sizes: the bytes of each pruned weight of the packed net, of all else and of the whole.
    """

    rows: tuple[ModelRow, ...]
    losses: Mapping[str, Losses]
    outputs: Mapping[Role, Any]
    targets: Any
    sizes: tuple[ByteCount, ...]

    def __getitem__(self, role: Role) -> ModelRow:
        return next(row for row in self.rows if row.role is role)

    def losses_of(self, role: Role) -> Losses:
        """How the model of a role fares on each example."""
        return self.losses[self[role].name]

    @property
    def reference(self) -> Role:
        """What pruning is judged against: the dense net that was trained as long, where there is one."""
        return Role.CONTROL if Role.CONTROL in self.outputs else Role.DENSE

    @property
    def rivals(self) -> tuple[ModelRow, ...]:
        """The rows that are pruned in another way."""
        return tuple(row for row in self.rows if row.role.rival)


@torch.no_grad()
def verify(
    bnet: BayesianNet | SupervisedModel,
    kept: Masks,
    loader: Any,
    plan: Plan,
    example: Any,
    *,
    draws: int = 20,
    rivals: Mapping[str, Rival],
    control: Mapping[str, Tensor] | None = None,
    state: PosteriorState | None = None,
) -> Verification:
    """Score, weigh and time the models that a report compares: on ``loader`` and on ``example``, timed in turns.

    ``control`` are the parameters and buffers of the dense net, trained on as long as the posterior was. ``state`` is
    ``bnet.state()`` where it is at hand; by default it is made here.

    Returns:
        The rows: the dense net, its control where there is one, the packed posterior mean, the posterior predictive
        through the same support, the dense net (or else its control) cut by magnitude without training, the same
        posterior ranked by |mean| where that keeps others, the rivals. Each that is pruned is packed by a plan of its
        own, and the packed net is the one that is scored, saved and timed, not a masked stand-in.

    Raises:
        ValueError: no observation model, no targets, a loader whose order changes, or a rival named as one of our rows.
    """
    bnet = net_of(bnet)
    observation, loader = known_observation(bnet), steady(batches_of(loader, scored=True))
    device = next(iter(bnet.parameters())).device
    dense = copied(bnet.net).to(device).eval()
    values = {**dict(dense.named_parameters()), **dict(dense.named_buffers())}
    state = bnet.state() if state is None else state
    means, variances = state.values, state.variances
    packed = export(dense, means, kept, example=example, plan=plan)
    sds = {name: var.sqrt() for name, var in variances.items()}
    spread = export(dense, {**means, **sds}, kept, example=example, plan=plan)
    trained = {**values, **(control or {})}
    by_mean, one_shot = _of_the_same_size(bnet, means, kept), _of_the_same_size(bnet, trained, kept)
    masked = partial(masked_forward, bnet)
    many = f"{Role.PREDICTIVE}, {draws} draws"
    if taken := rivals.keys() & {many, *(role.value for role in Role if role not in (Role.PREDICTIVE, Role.TRAINED))}:
        raise ValueError(f"the report has a row {sorted(taken)[0]!r} of its own: give the baseline another name")

    def drawn(*inputs: Any, **named: Any) -> None:
        for _ in range(draws):
            masked(bnet.draw(), kept)(*inputs, **named)

    def over(net: Callable[..., Any]) -> Outputs:
        output, y = run_over(bnet, net, loader)
        return tree_map(itemgetter(None), output), y

    rows: list[ModelRow] = []
    each: dict[str, Losses] = {}
    runs: dict[str, Callable[..., Any]] = {Role.DENSE.value: dense, Role.PRUNED.value: packed}

    def judge(role: Role, found: Outputs, share: float, nbytes: int | None = None, name: str | None = None) -> None:
        name = role.value if name is None else name
        each[name] = losses(observation, *found)
        rows.append(ModelRow(name, role, summary(each[name]), share, nbytes))

    def compete(role: Role, weights: Mapping[str, Tensor], support: Masks, name: str) -> None:
        runs[name] = rival = export(dense, weights, support, example=example)
        judge(role, over(rival), density(support), on_disk(rival), name)

    with evaluating(bnet):
        predictive = draw_outputs(bnet, loader, draws, kept)  # first: a pass over a loader moves the generator
        before, after = over(dense), over(packed)
        shown = {Role.DENSE: before, Role.PRUNED: after}
        judge(Role.DENSE, before, 1.0, on_disk(dense))
        if control is not None:
            runs[Role.CONTROL.value] = longer = masked_copy(dense, trained, {})
            shown[Role.CONTROL] = over(longer)
            judge(Role.CONTROL, shown[Role.CONTROL], 1.0, on_disk(longer))
        judge(Role.PRUNED, after, density(kept), on_disk(packed))
        judge(Role.PREDICTIVE, predictive, density(kept), on_disk(packed) + on_disk(spread), many)
        compete(Role.ONE_SHOT, trained, one_shot, Role.ONE_SHOT.value)
        if any(not torch.equal(by_mean[name], mask) for name, mask in kept.items()):  # the fit left something to rank
            compete(Role.BY_MEAN, means, by_mean, Role.BY_MEAN.value)
        for name, (rival_means, rival_masks) in rivals.items():
            compete(Role.TRAINED, rival_means, rival_masks, name)
        calls = {name: partial(call, run, example) for name, run in runs.items()}
        seconds = time_interleaved(calls, device=device, budget=max(1.0, 0.4 * len(calls)), rounds=101)
        first = Role.DENSE.value
        slow = time_interleaved({first: calls[first], many: partial(call, drawn, example)}, device=device)
        ratio = {name: seconds[first] / s for name, s in seconds.items()} | {many: slow[first] / slow[many]}
        seconds[many] = slow[many]
    return Verification(
        rows=tuple(replace(r, seconds=seconds.get(r.name), speedup=ratio.get(r.name)) for r in rows),
        losses=each,
        outputs={role: tree_map(itemgetter(0), found) for role, (found, _) in shown.items()},
        targets=observation.check(tree_map(itemgetter(0), before[0]), before[1]),
        sizes=byte_counts(dense, kept, packed, _compressed(packed, variances)),
    )


def score_forward(bnet: BayesianNet, forward: Callable[..., Any], loader: Iterable[Any]) -> Score:
    """The figures of one forward function on a data set, on the net's device and by the net's observation."""
    outputs, targets = run_over(bnet, forward, loader)
    return score(bnet.observation, tree_map(itemgetter(None), outputs), targets)


def masked_forward(bnet: BayesianNet, weights: Mapping[str, Tensor], masks: Masks) -> Callable[..., Any]:
    """The net on ``weights`` with what ``masks`` drop at 0."""
    return partial(bnet.run, {**weights, **{name: weights[name] * m for name, m in masks.items()}})


def density(kept: Masks) -> float:
    """The fraction of the entries of all masks together that stays."""
    return sum(int(m.sum()) for m in kept.values()) / max(sum(m.numel() for m in kept.values()), 1)


def _compressed(packed: nn.Module, variances: Mapping[str, Tensor]) -> Compressed | None:
    """The compressed file; ``None`` where what codes it is not installed."""
    return None if find_spec("constriction") is None else compressed(packed, variances=variances)


def on_disk(module: nn.Module) -> int:
    """How many bytes the file is that :func:`bayesprune.save` writes of a net."""
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
        found = masks(rival, keep=max(density(kept), 1e-9), saliency=magnitude)
    return {name: mask.to(kept[name].device) for name, mask in found.items()}
