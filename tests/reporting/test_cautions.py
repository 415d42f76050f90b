"""Each warning comes when it is due, and only then."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.evaluation.scoring import Losses, Score
from bayesprune.evaluation.verification import ModelRow, Role, Verification
from bayesprune.reporting.cautions import Caution, cautions
from bayesprune.reporting.verdict import class_changes
from bayesprune.sparse import CSR, Choice, Dense, Plan

DENSE, PRUNED, DRAWN = "the dense net", "the packed net", "the predictive of 5 draws"  # found by role, not by name
ROLES = {DENSE: Role.DENSE, PRUNED: Role.PRUNED, DRAWN: Role.PREDICTIVE}


def verification(losses: Mapping[str, Losses], y: Tensor, classes: int, speedup: float = 2.0) -> Verification:
    n = len(y)
    figures = (Score(n, 0.1, None, 0.5, 0.01), 0.5, 100, 1e-3, speedup)
    rows = tuple(ModelRow(name, role, *figures) for name, role in ROLES.items())
    shown = {name: about(each, y) for name, each in losses.items()}
    return Verification(rows, shown, {Role.DENSE: torch.zeros(n, classes)}, y, ())


def about(each: Losses, y: Tensor) -> Losses:
    """What one answer for all would lose is known, and of classes which of them each example is of."""
    if each.wrong is None:
        return replace(each, one_answer=float(y.double().var(0, correction=0).mean()))
    commonest = int(y.bincount().max()) / len(y)
    return replace(each, classes=int(y.max()) + 1, group=y, one_answer=1 - commonest)


def classified(confidence: float, right: int, n: int, *, lost: Mapping[int, int] | None = None) -> Verification:
    """``n`` examples of four classes in turn; ``right`` of them right by the predictive, which claims ``confidence``;
    of each class so many that only the pruned net misses.
    """
    y = torch.arange(n) % 4
    before, after = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    for k, count in (lost or {}).items():
        after[torch.nonzero(y == k).flatten()[:count]] = True
    sure = torch.full((n,), confidence, dtype=torch.float64)
    drawn = torch.arange(n) >= right
    losses = {name: Losses(sure, wrong=w, confidence=sure) for name, w in ((DENSE, before), (PRUNED, after))}
    return verification({**losses, DRAWN: Losses(sure, wrong=drawn, confidence=sure)}, y, 4)


def net_of(outputs: int = 40, inputs: int = 60) -> tuple[bp.BayesianNet, dict[str, Tensor], Plan]:
    """A net whose posterior is sure of everything, all of it kept, and a plan by which nothing is slow."""
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(inputs, outputs)), {"0.weight": bp.SparseVD()})
    masks = {"0.weight": torch.ones(outputs, inputs, dtype=torch.bool)}
    choice = Choice("0.weight", (outputs, inputs), outputs * inputs, Dense(), "", 0, {}, 100, 100)
    return bnet, masks, Plan({"0.weight": choice}, "cpu", 1)


def noisy(bnet: bp.BayesianNet, log_scale: float) -> None:
    """Give every weight this much noise."""
    with torch.no_grad():
        bnet.posteriors["0.weight"].get_parameter("log_scale").fill_(log_scale)


def warned(found: Verification | None = None, **changes: Any) -> list[Caution]:
    bnet, masks, plan = net_of()
    parts = {"bnet": bnet, "kept": masks, "plan": plan, **changes}
    found = classified(0.9, 360, 400) if found is None else found
    classes = (
        class_changes(found, ("ant", "bee", "cat", "dog")) if found.losses_of(Role.DENSE).wrong is not None else ()
    )
    return list(cautions(**parts, found=found, classes=classes, names=("ant", "bee", "cat", "dog")))


def test_where_nothing_is_wrong_nothing_is_said() -> None:
    assert warned() == []


@pytest.mark.parametrize(
    ("confidence", "due"),
    [
        (0.899, False),  # less sure than right: 90 %
        (0.92, False),  # inside the interval of 400 examples, which ends at 92.6 %
        (0.93, True),
    ],
)
def test_a_posterior_that_claims_more_than_it_keeps(confidence: float, due: bool) -> None:
    found = warned(classified(confidence, 360, 400))
    assert [w.kind for w in found] == ["too sure"] * due
    if due:
        assert found[0].about == DRAWN and "93.0%" in found[0].text and "90.0%" in found[0].text


@pytest.mark.parametrize(("inside", "due"), [(285, False), (278, False), (270, True)])
def test_a_regression_whose_intervals_are_too_narrow(inside: int, due: bool) -> None:
    n = 300
    hit = (torch.arange(n) < inside)[:, None]
    same = Losses(torch.ones(n), squared=torch.ones(n), inside=hit)
    apart = torch.tensor([[2.0], [-2.0]]).repeat(n // 2, 1)
    found = verification(dict.fromkeys((DENSE, PRUNED, DRAWN), same), apart, 1)
    assert [w.kind for w in warned(found)] == ["too sure"] * due


@pytest.mark.parametrize(("right", "due"), [(100, True), (115, True), (125, False)])
def test_a_dense_net_that_was_never_trained(right: int, due: bool) -> None:
    """One answer for all is right on 100 of 400; Wilson's interval of 115 begins below a quarter, that of 125 above."""
    found = classified(0.9, 360, 400)
    wrong = torch.arange(400) >= right
    found = replace(found, losses={**found.losses, DENSE: replace(found.losses[DENSE], wrong=wrong)})
    assert [(w.kind, w.about) for w in warned(found)] == [("untrained", DENSE)] * due


@pytest.mark.parametrize(("squared", "due"), [(4.1, True), (3.9, False)])
def test_a_dense_regression_that_was_never_trained(squared: float, due: bool) -> None:
    targets = torch.tensor([[2.0], [-2.0]]).repeat(50, 1)
    inside = torch.ones(100, 1, dtype=torch.bool)
    good = Losses(torch.ones(100), squared=torch.ones(100), inside=inside)
    found = verification(
        {DENSE: replace(good, squared=torch.full((100,), squared)), PRUNED: good, DRAWN: good}, targets, 1
    )
    assert [w.kind for w in warned(found)] == ["untrained"] * due


def answering(answers: Tensor, y: Tensor) -> Verification:
    """The pruned net gives these answers to examples of these classes."""
    found = classified(0.9, 360, 400)
    losses = replace(found.losses[PRUNED], wrong=answers != y, group=y, answer=answers, classes=4)
    return replace(found, losses={**found.losses, PRUNED: losses})


@pytest.mark.parametrize(("right", "due"), [(100, True), (115, True), (125, False)])
def test_a_pruned_net_that_one_answer_could_replace(right: int, due: bool) -> None:
    y = torch.arange(400) % 4
    answers = torch.where(torch.arange(400) < right, y, (y + 1) % 4)
    found = [w for w in warned(answering(answers, y)) if w.kind != "class"]
    assert [(w.kind, w.about) for w in found] == [("useless", PRUNED)] * due
    if due:
        assert f"{1 - right / 400:.1%}" in found[0].text and "75.0%" in found[0].text and "one answer" in found[0].text


@pytest.mark.parametrize(("squared", "due"), [(4.1, True), (3.9, False)])
def test_a_pruned_regression_worse_than_a_constant_says_so(squared: float, due: bool) -> None:
    targets = torch.tensor([[2.0], [-2.0]]).repeat(50, 1)
    good = Losses(torch.ones(100), squared=torch.ones(100), inside=torch.ones(100, 1, dtype=torch.bool))
    bad = replace(good, squared=torch.full((100,), squared))
    found = warned(verification({DENSE: good, PRUNED: bad, DRAWN: good}, targets, 1))
    assert [w.kind for w in found] == ["useless"] * due
    if due:
        assert "worse than a constant" in found[0].text and "2.02" in found[0].text and "is 2" in found[0].text


def test_classes_that_are_never_predicted_are_counted_and_named() -> None:
    y = torch.arange(400) % 4
    answers = torch.where(y < 2, y, 0)
    (found,) = [w for w in warned(answering(answers, y)) if w.kind == "never predicted"]
    assert found.about == "2 of 4 classes" and "2 classes are never predicted, of 4: cat, dog" in found.text
    assert not [w for w in warned(answering(y, y)) if w.kind == "never predicted"]
    rare = torch.where(torch.arange(400) < 396, y % 3, 3)  # four examples of the last: chance may miss them all
    assert not [w for w in warned(answering(rare.clamp_max(2), rare)) if w.kind == "never predicted"]


@pytest.mark.parametrize(("lost", "due"), [(0, False), (7, False), (8, True)])
def test_a_class_that_suffered(lost: int, due: bool) -> None:
    """Of four classes each may err with a chance of 1 in 80: 2 / 2⁷ is above that, 2 / 2⁸ below."""
    found = warned(classified(0.9, 360, 400, lost={2: lost}))
    assert [(w.kind, w.about) for w in found] == [("class", "cat")] * due
    if due:
        assert "0.0%" in found[0].text and "8.0%" in found[0].text and "100 examples" in found[0].text


def test_a_class_that_gained_is_no_warning() -> None:
    found = classified(0.9, 360, 400, lost={2: 20})
    swapped = {DENSE: found.losses[PRUNED], PRUNED: found.losses[DENSE], DRAWN: found.losses[DRAWN]}
    assert warned(replace(found, losses=swapped)) == []


@pytest.mark.parametrize(
    ("outputs", "inputs", "due"),
    [(40, 60, False), (4, 60, False), (3, 60, True), (40, 4, False), (40, 3, True), (0, 0, True)],
)
def test_a_layer_of_which_little_is_left(outputs: int, inputs: int, due: bool) -> None:
    """Under a tenth of the narrower side, 40: fewer than four outputs or inputs that still have a weight."""
    bnet, masks, plan = net_of()
    noisy(bnet, 20.0)  # all that goes was noise, or the budget would be warned of too
    mask = torch.zeros_like(masks["0.weight"])
    mask[:outputs, :inputs] = True
    found = warned(bnet=bnet, kept={"0.weight": mask}, plan=plan)
    assert [(w.kind, w.about) for w in found] == [("near empty", "0.weight")] * due
    if due:
        assert f"{outputs} of 40 outputs and {inputs} of 60 inputs" in found[0].text
        assert ("is empty" in found[0].text) == (outputs == 0)


def test_a_single_output_is_not_nearly_empty() -> None:
    bnet, masks, plan = net_of(outputs=1, inputs=50)
    mask = torch.zeros_like(masks["0.weight"])
    mask[:, :30] = True
    assert warned(bnet=bnet, kept={"0.weight": mask}, plan=plan) == []


@pytest.mark.parametrize(("sparse", "due"), [(0.8e-3, False), (1.04e-3, False), (1.2e-3, True)])
def test_a_sparse_layer_slower_than_dense(sparse: float, due: bool) -> None:
    seconds = {"dense": 1e-3, "CSR native": sparse}
    choice = Choice("0.weight", (40, 60), 2400, CSR(), "native", 64, seconds, 100, 100)
    found = warned(plan=Plan({"0.weight": choice}, "cpu", 1))
    assert [(w.kind, w.about) for w in found] == [("slow", "0.weight")] * due
    if due:
        assert "1.20× slower" in found[0].text and "CSR native" in found[0].text


def test_a_packed_net_slower_than_dense() -> None:
    found = classified(0.9, 360, 400)
    rows = tuple(replace(row, speedup=0.5) if row.name == PRUNED else row for row in found.rows)
    assert [(w.kind, w.about) for w in warned(replace(found, rows=rows))] == [("slow", PRUNED)]


@pytest.mark.parametrize(("kept", "due"), [(1.0, False), (0.6, False), (0.4, True)])
def test_a_budget_far_past_the_posteriors_own(kept: float, due: bool) -> None:
    """The posterior holds everything to be signal; under half of that is too deep."""
    bnet, _, plan = net_of()
    noisy(bnet, -20.0)
    mask = torch.rand(40, 60).argsort(1) < 60 * kept
    found = warned(bnet=bnet, kept={"0.weight": mask}, plan=plan)
    assert [w.kind for w in found] == ["budget"] * due
    if due:
        assert "40.00%" in found[0].text and "100.00%" in found[0].text
