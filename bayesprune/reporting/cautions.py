"""Warnings of a report: where the posterior, the masks or the packed net fall short."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bayesprune.evaluation.classification import wilson_interval
from bayesprune.evaluation.scoring import Losses
from bayesprune.evaluation.verification import Role, Verification, density
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.network.state import PosteriorState
from bayesprune.pruning.masking import BudgetWarning, masks
from bayesprune.reporting.intervals import LEVEL
from bayesprune.reporting.units import speed
from bayesprune.reporting.verdict import ClassChange
from bayesprune.sparse import Plan

__all__ = ["Caution", "cautions"]

_NARROW = 0.1  # of a layer's width: fewer directions than this hardly carry a signal
_SLOWER = 0.95  # of the dense speed: above is noise
_CHANCE = 0.05

_NAMED = 10  # classes, at most
_TOO_FEW = 5  # examples of a class: that they are missed may be chance

Kind = Literal[
    "no control", "untrained", "useless", "never predicted", "too sure", "near empty", "class", "slow", "budget"
]


@dataclass(frozen=True)
class Caution:
    """One warning of a report.

    Attributes:
        kind: what sort it is of.
        about: the weight, class or model.
        text: what is wrong, with the figures, and what can be done.
    """

    kind: Kind
    about: str
    text: str


def cautions(
    bnet: BayesianNet,
    kept: Mapping[str, Tensor],
    plan: Plan,
    found: Verification,
    classes: Sequence[ClassChange],
    state: PosteriorState | None = None,
    names: Sequence[str] = (),
) -> tuple[Caution, ...]:
    """All warnings that are due; each function below says when; ``state`` is ``bnet.state()`` where it is at hand, and
    ``names`` are those of the classes by their numbers."""
    return (
        *_no_control(bnet, found),
        *_untrained(found),
        *_useless(found),
        *_never_predicted(found, names),
        *_too_sure(found),
        *_near_empty(bnet, kept),
        *_suffering(classes),
        *_slow(plan, found),
        *_past_the_budget(bnet, kept, state),
    )


def _no_control(bnet: BayesianNet, found: Verification) -> Iterator[Caution]:
    """The dense net was trained for fewer epochs than the pruned one: what is better may be these epochs' doing."""
    if bnet.epochs and found.reference is Role.DENSE:
        text = (
            f"The dense net is the one that the fit started at: the pruned one was trained for {bnet.epochs} epochs "
            "more, and may be better by these alone. Train the dense one as long, "
            f"dense = bp.BayesianNet(net, {{}}); bp.fit(bp.classify(dense, size), dense.guide, train, "
            f"epochs={bnet.epochs}, lr=lr), and give the report control=dense.means()."
        )
        yield Caution("no control", found[Role.DENSE].name, text)


def _untrained(found: Verification) -> Iterator[Caution]:
    """The dense net does no better than one answer for all would: being better than it says nothing."""
    told = _no_better_than_one_answer(found.losses_of(found.reference))
    if told:
        text = f"The dense net {told}, so to beat it says nothing. Give the report a net that was trained as baseline=."
        yield Caution("untrained", found[found.reference].name, text)


def _useless(found: Verification) -> Iterator[Caution]:
    """The pruned net does no better than one answer for all would."""
    told = _no_better_than_one_answer(found.losses_of(Role.PRUNED))
    if told:
        yield Caution("useless", found[Role.PRUNED].name, f"The pruned net {told}. Keep more weights, or fit longer.")


def _no_better_than_one_answer(losses: Losses) -> str | None:
    """What a model that could be replaced by one answer for all does, in words; ``None`` where it is better."""
    if losses.one_answer is None:
        return None
    if losses.wrong is not None:
        n, wrong = len(losses.wrong), int(losses.wrong.sum())
        low, _ = (float(end) for end in wilson_interval(torch.tensor(n - wrong), torch.tensor(n), LEVEL))
        if low > 1 - losses.one_answer:
            return None
        return (
            f"is wrong on {wrong / n:.1%} of examples, and the commonest answer given to all would be on "
            f"{losses.one_answer:.1%}: one answer for all would do as well, as far as {n:,} examples tell"
        )
    assert losses.squared is not None  # labels or numbers
    mine, spread = float(losses.squared.double().mean()), losses.one_answer
    if mine < spread:
        return None
    return (
        f"is worse than a constant: its RMSE is {mine**0.5:.3g}, and that of the targets' mean as one answer for all "
        f"is {spread**0.5:.3g}"
    )


def _never_predicted(found: Verification, names: Sequence[str]) -> Iterator[Caution]:
    """Classes of which there are examples are no answer of the pruned net's, to any example."""
    losses = found.losses_of(Role.PRUNED)
    if losses.answer is None or losses.group is None:
        return
    examples = losses.group.bincount(minlength=losses.classes)
    given = losses.answer.bincount(minlength=losses.classes)
    never = torch.nonzero((examples >= _TOO_FEW) & (given == 0)).flatten().tolist()
    if never:
        named = [names[k] if names else str(k) for k in never[:_NAMED]]
        listed = ", ".join(named) + (f" and {len(never) - _NAMED} more" if len(never) > _NAMED else "")
        some = "One class is" if len(never) == 1 else f"{len(never)} classes are"
        text = f"{some} never predicted, of {int((examples > 0).sum())}: {listed}. Keep more weights, or fit longer."
        yield Caution("never predicted", f"{len(never)} of {int((examples > 0).sum())} classes", text)


def _too_sure(found: Verification) -> Iterator[Caution]:
    """The posterior predictive claims more than the examples bear out, beyond chance."""
    losses = found.losses_of(Role.PREDICTIVE)
    if losses.wrong is not None and losses.confidence is not None:
        right, claimed, what = (~losses.wrong).double(), float(losses.confidence.mean()), "answers are right"
    elif losses.inside is None:
        return
    else:
        right, claimed, what = losses.inside.double().mean(-1), LEVEL, "targets lie in its 95% intervals"
    low, high = (float(end) for end in wilson_interval(right.sum().cpu(), torch.tensor(len(right)), LEVEL))
    if claimed > high:
        text = (
            f"The posterior is too sure: it claims {claimed:.1%}, and {float(right.mean()):.1%} of its {what} "
            f"(95% interval {low:.1%} to {high:.1%}). Recalibrate before you rely on its probabilities."
        )
        yield Caution("too sure", found[Role.PREDICTIVE].name, text)


def _near_empty(bnet: BayesianNet, kept: Mapping[str, Tensor]) -> Iterator[Caution]:
    """Few outputs or few inputs of a layer have a weight left."""
    for name, mask in kept.items():
        if not mask.numel():
            continue
        matrix = bnet.posteriors[name].layout.matrix(mask).any(-1)
        outputs, inputs = int(matrix.any(-1).sum()), int(matrix.any(-2).sum())
        all_outputs, all_inputs = matrix[:, :, 0].numel(), matrix[:, 0].numel()
        if min(outputs, inputs) < max(_NARROW * min(all_outputs, all_inputs), 1):
            state = "is empty: no signal passes it" if not outputs else "is nearly empty"
            text = (
                f"{name} {state}: {outputs:,} of {all_outputs:,} outputs and {inputs:,} of {all_inputs:,} inputs have "
                "a weight left. Keep more, or give each layer a budget of its own: "
                "bp.masks(bnet, keep=…, scope='layer')."
            )
            yield Caution("near empty", name, text)


def _suffering(classes: Sequence[ClassChange]) -> Iterator[Caution]:
    """A class is missed more often than before, beyond chance among so many classes (Bonferroni)."""
    for c in classes:
        if c.rise > 0 and c.p * len(classes) < _CHANCE:
            text = (
                f"Class {c.name} suffered: {c.before:.1%} of its {c.examples:,} examples were missed before pruning, "
                f"{c.after:.1%} are now (95% interval {c.low:.1%} to {c.high:.1%})."
            )
            yield Caution("class", c.name, text)


def _slow(plan: Plan, found: Verification) -> Iterator[Caution]:
    """A sparse layer, or the packed net as a whole, is slower than dense."""
    for name, choice in plan.choices.items():
        if not choice.format.is_dense and choice.speedup is not None and choice.speedup < _SLOWER:
            text = (
                f"{name} runs as {choice.label}, {speed(choice.speedup)} than dense. Let bp.plan choose its format on "
                "this machine."
            )
            yield Caution("slow", name, text)
    packed = found[Role.PRUNED]
    if packed.speedup is not None and packed.speedup < _SLOWER:
        text = f"The packed net is {speed(packed.speedup)} than the dense one: packing did not make it faster here."
        yield Caution("slow", packed.name, text)


def _past_the_budget(bnet: BayesianNet, kept: Mapping[str, Tensor], state: PosteriorState | None) -> Iterator[Caution]:
    """As deep a cut as these masks make is one that ``bp.masks`` itself would warn of."""
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        masks(bnet, keep=float(f"{max(density(kept), 1e-9):.3g}"), state=state)  # which repeats it
    for warning in raised:
        if issubclass(warning.category, BudgetWarning):
            yield Caution("budget", "all weights", f"The budget is far past the posterior's own: {warning.message}.")
