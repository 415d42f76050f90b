"""The bottom line is the first rule's that holds, and what a warning voids is no good news."""

import re
from typing import Any

import pytest
import torch
from support.paths import ROOT
from torch import nn

import bayesprune as bp
from bayesprune.evaluation.scoring import Score
from bayesprune.evaluation.verification import ModelRow, Role
from bayesprune.reporting.bottom_line import _RULES, bottom_line, voided
from bayesprune.reporting.cautions import Caution
from bayesprune.reporting.findings import Findings
from bayesprune.reporting.intervals import Change
from bayesprune.reporting.verdict import Verdict
from bayesprune.reporting.wording import verdict_lines

N = 1000


def model(name: str, role: Role, nbytes: int, seconds: float) -> ModelRow:
    return ModelRow(name, role, Score(N, 0.03, None, 0.1, 0.01), 0.1, nbytes, seconds, 2e-3 / seconds)


def change(before: float, after: float, low: float, high: float) -> Change:
    return Change(before, after, low, high, "as given")


DENSE = model("dense", Role.DENSE, 200_000, 2e-3)
CONTROL = model("dense control", Role.CONTROL, 200_000, 2e-3)
ALIKE = change(0.03, 0.032, -0.01, 0.012)


def found(
    error: Change | None = ALIKE,
    rmse: Change | None = None,
    *,
    nbytes: int = 20_000,
    seconds: float = 1e-3,
    warnings: tuple[Caution, ...] = (),
    rival: tuple[Change, int, float] | None = None,
    behind: int = 0,
) -> Findings:
    packed = model("posterior mean, pruned", Role.PRUNED, nbytes, seconds)
    models, rivals = [DENSE, CONTROL, packed], {}
    if rival is not None:
        models.append(model("a rival", Role.TRAINED, rival[1], rival[2]))
        rivals["a rival"] = rival[0]
    verdict = Verdict(
        dense=DENSE,
        control=None if behind else CONTROL,
        behind=behind,
        packed=packed,
        dtype="float32",
        error=error,
        rmse=rmse,
        nll=change(0.1, 0.09, -0.02, -0.005),
        coverage=None,
        worst=None,
        rivals=rivals,
        rival_kept=dict.fromkeys(rivals, 0.1),
    )
    nothing: Any = ()
    return Findings(
        verdict, warnings, (), tuple(models), (), (), bp.Plan({}, "cpu", 1), 64, 20, 0, nothing
    )  # fmt: skip


def warning(kind: Any, about: str = "x") -> tuple[Caution, ...]:
    return (Caution(kind, about, "…"),)


CASES = {
    "useless": (found(warnings=warning("useless")), "Do not ship: it is no better than one answer for all."),
    "useless regression": (
        found(None, ALIKE, warnings=warning("useless")),
        "Do not ship: it is worse than a constant.",
    ),
    "never predicted": (
        found(warnings=warning("never predicted", "8 of 10 classes")),
        "Do not ship: 8 of 10 classes are never predicted.",
    ),
    "one is never predicted": (
        found(warnings=warning("never predicted", "1 of 10 classes")),
        "Do not ship: 1 of 10 classes is never predicted.",
    ),
    "untrained": (
        found(warnings=warning("untrained")),
        "Cannot say yet: the dense net does no better than one answer for all, so there is nothing to compare with.",
    ),
    "doubled": (
        found(change(0.03, 0.07, 0.02, 0.06)),
        "Do not ship: the error has more than doubled, 3.00% → 7.00%, beyond chance.",
    ),
    "RMSE half as much again": (
        found(None, change(1.0, 1.6, 0.4, 0.8)),
        "Do not ship: the RMSE is more than half as much again, 1 → 1.6, beyond chance.",
    ),
    "rival": (
        found(rival=(change(0.02, 0.032, 0.002, 0.02), 20_500, 1.02e-3)),
        "Do not ship: a rival has 1.20 points less error, and is neither larger nor slower.",
    ),
    "rival, larger": (
        found(rival=(change(0.02, 0.032, 0.002, 0.02), 30_000, 1e-3)),
        "Ship it: 10.0× smaller, 2.00× faster, error 0.20 points higher, which may be chance.",
    ),
    "rival, by chance": (
        found(rival=(change(0.02, 0.032, -0.002, 0.02), 20_000, 1e-3)),
        "Ship it: 10.0× smaller, 2.00× faster, error 0.20 points higher, which may be chance.",
    ),
    "nothing gained": (
        found(nbytes=199_000, seconds=2e-3),
        "Do not ship: it is neither smaller nor faster than the dense net.",
    ),
    "no control": (
        found(warnings=warning("no control"), behind=20),
        "Cannot say yet: the dense net was trained for 20 epochs less, so what pruning cost is not known; 10.0× "
        "smaller, 2.00× faster.",
    ),
    "worse": (
        found(change(0.03, 0.045, 0.005, 0.025)),
        "Weigh it: 10.0× smaller, 2.00× faster, for 1.50 points more error, beyond chance.",
    ),
    "a class": (
        found(warnings=warning("class", "cat")),
        "Weigh it: 10.0× smaller, 2.00× faster, and class cat suffered.",
    ),
    "too few": (
        found(change(0.03, 0.04, -0.02, 0.04)),
        "Cannot say yet: 1,000 examples do not rule out that the error has more than doubled: by up to 4.00 points "
        "(95% interval); 10.0× smaller, 2.00× faster.",
    ),
    "ship": (
        found(),
        "Ship it: 10.0× smaller, 2.00× faster, error 0.20 points higher, which may be chance.",
    ),
    "ship, slower": (
        found(seconds=4e-3),
        "Ship it: 10.0× smaller, 2.00× slower, error 0.20 points higher, which may be chance.",
    ),
    "ship, better": (
        found(change(0.03, 0.02, -0.015, -0.002)),
        "Ship it: 10.0× smaller, 2.00× faster, error 1.00 points lower.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_first_rule_that_holds_decides(case: str) -> None:
    findings, said = CASES[case]
    assert str(bottom_line(findings)) == said


def test_earlier_rules_win() -> None:
    all_wrong = found(
        change(0.03, 0.9, 0.8, 0.95), warnings=(*warning("class"), *warning("never predicted", "8 of 10 classes"))
    )
    assert "8 of 10 classes" in str(bottom_line(all_wrong))


def test_the_docs_list_every_rule_in_order() -> None:
    page = (ROOT / "docs" / "report.md").read_text()
    part = page[page.index("## The bottom line") : page.index("## The verdict")]
    assert re.findall(r"^\| (\d+) \|", part, re.MULTILINE) == [str(k) for k in range(1, len(_RULES) + 1)]
    said = re.findall(r"^\| \d+ \| \*\*(.+?)\*\*", part, re.MULTILINE)
    cases = ("useless", "never predicted", "untrained", "doubled", "rival", "nothing gained", "no control", "worse")
    assert said == [CASES[case][1].partition(":")[0] for case in (*cases, "a class", "too few", "ship")]


def goods(**changes: Any) -> dict[str, bool | None]:
    better = change(0.03, 0.02, -0.015, -0.002)
    findings = found(better, rival=(change(0.05, 0.02, -0.04, -0.02), 20_000, 1e-3), **changes)
    return {line.title: line.good for line in verdict_lines(findings) if line.title != "Calibration"}


def test_good_news_is_good_where_nothing_is_wrong() -> None:
    assert set(goods().values()) == {True}


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("useless", set()),
        ("never predicted", set()),
        ("untrained", {"Size", "Speed"}),
        ("no control", {"Size", "Speed", "Against a rival"}),
        ("too sure", {"Size", "Speed", "Error", "Against a rival"}),
        ("class", {"Size", "Speed", "NLL", "Against a rival"}),
        ("slow", {"Size", "Speed", "Error", "NLL", "Against a rival"}),
    ],
)
def test_what_a_warning_voids_is_no_good_news(kind: Any, left: set[str]) -> None:
    assert {title for title, good in goods(warnings=warning(kind)).items() if good} == left


def test_bad_news_stays_bad() -> None:
    findings = found(change(0.03, 0.045, 0.005, 0.025), warnings=warning("useless"))
    assert next(line.good for line in verdict_lines(findings) if line.title == "Error") is False
    assert voided("size", findings.warnings) and not voided("size", warning("budget"))


def test_a_degenerate_net_is_not_shipped() -> None:
    """A real report, of a net of which nothing is left."""
    torch.manual_seed(0)
    x = torch.randn(200, 12)
    y = x[:, :4].argmax(1)
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)), {"*.weight": bp.SparseVD()})
    loader = [(x, y)]
    bp.fit(bp.classify(bnet, 200), bnet.guide, loader, epochs=60, lr=2e-2, seed=0)
    masks = {name: torch.zeros_like(mask) for name, mask in bp.masks(bnet, keep=0.5).items()}
    made = bp.report(bnet, masks, loader, draws=2, control=bnet.means(), seed=0)
    kinds = {w.kind for w in made.warnings}
    assert {"useless", "never predicted"} <= kinds
    assert str(made).startswith("Do not ship: it is no better than one answer for all.")
    assert made.to_dict()["bottom_line"]["answer"] == "do not ship"
    assert not any(line.good for line in verdict_lines(made))
