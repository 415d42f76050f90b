"""Make a report: compare a pruned posterior with the dense net and magnitude pruning on one data set."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accelerate.utils import send_to_device
from torch import Tensor, nn

from bayesprune._state_dicts import is_unset, whole
from bayesprune.evaluation.verification import Rival, Role, verify
from bayesprune.fitting.batches import split
from bayesprune.fitting.generators import seeded
from bayesprune.fitting.given import batches_of, net_of
from bayesprune.fitting.supervised import SupervisedModel
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.network.tree import tensors
from bayesprune.pruning.masking import check_masks
from bayesprune.reporting.cautions import cautions
from bayesprune.reporting.findings import Subject
from bayesprune.reporting.flips import flips
from bayesprune.reporting.result import Report
from bayesprune.reporting.verdict import class_changes, class_names, judge
from bayesprune.reporting.weights import weight_rows
from bayesprune.sparse import Plan
from bayesprune.sparse import plan as make_plan

__all__ = ["report"]


def report(
    bnet: BayesianNet | SupervisedModel,
    masks: Mapping[str, Tensor],
    loader: Any,
    *,
    draws: int = 20,
    control: nn.Module | Mapping[str, Tensor] | None = None,
    baseline: Rival | Mapping[str, Rival] | None = None,
    plan: Plan | None = None,
    classes: Sequence[str] | None = None,
    seed: int | None = None,
) -> Report:
    """Compare a pruned posterior with the dense net and with magnitude pruning, on one data set.

    The net that a posterior started at has had fewer epochs than the posterior: a fair comparison is with a dense
    control, that net trained on in the same loop for as many epochs. Without one the report says how far it lags.

    Args:
        bnet: the net with its posterior, fitted, or the model that was.
        masks: weight name → bool, as :func:`bayesprune.masks` gives.
        loader: batches ``(x, y)`` in a fixed order, a ``Dataset``, or one batch. Latency is measured on the first one.
        draws: draws of the posterior predictive.
        control: the dense net after as many epochs as the posterior was fitted for, or its parameters and buffers by
            name: ``dense = bp.BayesianNet(net, {})``, fitted with the posterior's epochs and rate, has them as
            ``dense.means()``.
        baseline: (means, masks) of a rival that was trained to the same sparsity, say by gradual magnitude pruning;
            or several by name.
        plan: how weights run; by default measured here.
        classes: the classes' names; by default their numbers.
        seed: fixes the draws, and leaves the global generator as it was.

    Raises:
        TypeError: no net with a posterior, or no data.
        ValueError: masks or a control that do not fit, no data, a loader whose order changes, no observation model,
            another number of names than of classes, or a baseline named as one of the report's own rows.

    >>> import torch
    >>> from bayesprune import SparseVD, classify, masks
    >>> bnet = BayesianNet(torch.nn.Sequential(torch.nn.Linear(40, 3)), {"0.weight": SparseVD()})
    >>> model = classify(bnet, size=8)
    >>> data = [(torch.randn(8, 40), torch.arange(8) % 3)]
    >>> found = report(bnet, masks(bnet, keep=0.5), data, draws=2)
    >>> [row.name for row in found.models][:2], found.weights[0].kept
    (['dense', 'posterior mean, pruned'], 0.5)
    """
    bnet, loader = net_of(bnet), batches_of(loader, scored=True)
    check_masks(bnet, masks)
    trained = None if control is None else _values(bnet, control)
    if isinstance(loader, Iterator):
        loader = list(loader)
    first = next(iter(loader), None)
    if first is None:
        raise ValueError("the loader holds no batches")
    example = send_to_device(split(bnet, first)[0], next(iter(bnet.parameters())).device)
    rivals = {Role.TRAINED.value: baseline} if isinstance(baseline, tuple) else dict(baseline or {})
    state = bnet.state()
    plan = make_plan(bnet.net, masks, example=example) if plan is None else plan
    with seeded(seed):
        found = verify(bnet, masks, loader, plan, example, draws=draws, rivals=rivals, control=trained, state=state)
        names = class_names(found, classes)
        flipped = flips(bnet, loader, found, names)
    by_class = class_changes(found, names)
    return Report(
        verdict=judge(bnet.net, found, by_class, bnet.epochs),
        warnings=cautions(bnet, masks, plan, found, by_class, state, names),
        weights=weight_rows(bnet, masks, plan, state),
        models=found.rows,
        classes=by_class,
        sizes=found.sizes,
        plan=plan,
        batch=_batch(example),
        draws=draws,
        seed=seed,
        subject=Subject(bnet, masks, found, names, flipped),
    )


def _values(bnet: BayesianNet, control: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A control's parameters and buffers, where the net is. Raises ``ValueError`` where they are not the net's."""
    wanted = dict(tensors(bnet.net))
    given = dict(tensors(control)) if isinstance(control, nn.Module) else dict(whole(control))
    device = next(iter(bnet.parameters())).device
    for name, value in wanted.items():
        if name not in given or given[name].shape != value.shape:
            there = "is missing" if name not in given else f"has shape {tuple(given[name].shape)}"
            raise ValueError(
                f"control is the same net trained on: its {name!r} {there}, where the net's has {tuple(value.shape)}"
            )
    kept = [*wanted, *(name for name in given if name not in wanted and is_unset(bnet.net, name))]
    return {name: given[name].detach().to(device) for name in kept}


def _batch(example: Any) -> int:
    if isinstance(example, Mapping):
        return _batch(next(iter(example.values())))
    return len(example[0]) if isinstance(example, (tuple, list)) else len(example)
