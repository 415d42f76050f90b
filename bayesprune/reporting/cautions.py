"""Warnings of a report: where the posterior, the masks or the packed net fall short."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bayesprune.evaluation.classification import wilson_interval
from bayesprune.evaluation.verification import Role, Verification, density
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.network.state import PosteriorState
from bayesprune.pruning.masking import BudgetWarning, masks
from bayesprune.reporting.intervals import LEVEL
from bayesprune.reporting.verdict import ClassChange
from bayesprune.sparse import Plan

__all__ = ["Caution", "cautions"]

_NARROW = 0.1  # of a layer's width: fewer directions than this hardly carry a signal
_SLOWER = 0.95  # of the dense speed: above is noise
_CHANCE = 0.05

Kind = Literal["no control", "untrained", "too sure", "near empty", "class", "slow", "budget"]


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
) -> tuple[Caution, ...]:
    """All warnings that are due; each function below says when; ``state`` is ``bnet.state()`` where it is at hand."""
    return (
        *_no_control(bnet, found),
        *_untrained(found),
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
    dense = found.losses_of(found.reference)
    if dense.one_answer is None:
        return
    if dense.wrong is not None:
        n, wrong = len(dense.wrong), int(dense.wrong.sum())
        low, _ = (float(end) for end in wilson_interval(torch.tensor(n - wrong), torch.tensor(n), LEVEL))
        useless, told = low <= 1 - dense.one_answer, f"is wrong on {wrong / n:.1%} of examples"
    else:
        assert dense.squared is not None  # labels or numbers
        mine, spread = float(dense.squared.double().mean()), dense.one_answer
        useless, told = mine >= spread, f"has RMSE {mine**0.5:.3g} where the targets' own is {spread**0.5:.3g}"
    if useless:
        text = (
            f"The dense net {told}: one answer for all would do as well, so to beat it says nothing. Give the report "
            "a net that was trained as baseline=."
        )
        yield Caution("untrained", found[found.reference].name, text)


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
                f"{name} runs as {choice.label} and takes {1 / choice.speedup:.3g}× as long as dense. Let bp.plan "
                "choose its format on this machine."
            )
            yield Caution("slow", name, text)
    packed = found[Role.PRUNED]
    if packed.speedup is not None and packed.speedup < _SLOWER:
        times = f"{1 / packed.speedup:.3g}×"
        text = f"The packed net takes {times} as long as the dense one: packing did not make it faster here."
        yield Caution("slow", packed.name, text)


def _past_the_budget(bnet: BayesianNet, kept: Mapping[str, Tensor], state: PosteriorState | None) -> Iterator[Caution]:
    """As deep a cut as these masks make is one that ``bp.masks`` itself would warn of."""
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        masks(bnet, keep=float(f"{max(density(kept), 1e-9):.3g}"), state=state)  # which repeats it
    for warning in raised:
        if issubclass(warning.category, BudgetWarning):
            yield Caution("budget", "all weights", f"The budget is far past the posterior's own: {warning.message}.")
