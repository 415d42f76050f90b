"""The report's figures are those of the models it names."""

import copy
import json
import math
from collections.abc import Callable
from io import StringIO
from itertools import product
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.evaluation.classification import (
    error,
    expected_calibration_error,
    negative_log_likelihood,
    wilson_interval,
)
from bayesprune.evaluation.verification import Role
from bayesprune.reporting import units
from bayesprune.reporting.intervals import mcnemar, paired_errors, paired_means
from bayesprune.reporting.wording import footnotes, verdict_lines
from bayesprune.tables import Table


@pytest.fixture(scope="module")
def fitted() -> tuple[bp.BayesianNet, DataLoader]:
    torch.manual_seed(0)
    x = torch.randn(240, 12)
    y = (x[:, :3] @ torch.randn(3, 4)).argmax(1)
    net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
    bnet = bp.BayesianNet(net, {"*.weight": bp.SparseVD()})
    loader = DataLoader(TensorDataset(x, y), batch_size=60)
    bp.fit(bp.classify(bnet, 240), bnet.guide, loader, epochs=15, lr=1e-2, seed=0)
    return bnet, loader


@pytest.fixture(scope="module")
def found(fitted: tuple[bp.BayesianNet, DataLoader]) -> bp.Report:
    bnet, loader = fitted
    masks = bp.masks(bnet, keep=0.4)
    return bp.report(bnet, masks, loader, draws=5, seed=3, baseline=(bnet.means(), masks))


def probabilities(fitted: tuple[bp.BayesianNet, DataLoader], values: dict, masks: dict) -> torch.Tensor:
    bnet, loader = fitted
    net = copy.deepcopy(bnet.net).eval()
    weights = {n: v * masks[n] if n in masks else v for n, v in values.items()}
    with torch.no_grad():
        return torch.func.functional_call(net, weights, (loader.dataset.tensors[0],)).softmax(-1)


def row(found: bp.Report, name: str):
    return next(m for m in found.models if m.name.startswith(name))


def test_figures_equal_direct_evaluation(fitted: tuple[bp.BayesianNet, DataLoader], found: bp.Report) -> None:
    bnet, loader = fitted
    y = loader.dataset.tensors[1]
    masks = bp.masks(bnet, keep=0.4)
    dense = dict(bnet.net.named_parameters())
    for name, values, kept in (("dense", dense, {}), ("posterior mean", bnet.means(), masks)):
        probs = probabilities(fitted, values, kept)
        score = row(found, name).score
        assert score.error == pytest.approx(error(probs, y), abs=1e-9)
        assert score.nll == pytest.approx(negative_log_likelihood(probs, y), rel=1e-5)
        assert score.ece == pytest.approx(expected_calibration_error(probs, y), abs=1e-5)


def test_the_predictive_goes_through_the_pruned_support(
    fitted: tuple[bp.BayesianNet, DataLoader], found: bp.Report
) -> None:
    bnet, loader = fitted
    prediction = bp.predict(bnet, loader, draws=5, masks=bp.masks(bnet, keep=0.4), seed=3)
    score = row(found, "posterior predictive").score
    assert score.nll == pytest.approx(negative_log_likelihood(prediction.mean, prediction.targets), rel=1e-4)


def test_the_rival_is_scored_like_the_posterior(found: bp.Report) -> None:
    assert row(found, "trained rival").score.nll == pytest.approx(row(found, "posterior mean").score.nll, rel=1e-5)


def test_magnitude_rivals_have_the_same_sparsity(found: bp.Report) -> None:
    for name in ("dense net, one-shot", "same posterior", "posterior mean"):
        assert row(found, name).kept == pytest.approx(0.4, abs=1 / 512)


def test_the_report_leaves_the_net_and_its_mode_alone(fitted: tuple[bp.BayesianNet, DataLoader]) -> None:
    bnet, loader = fitted
    before = {k: v.clone() for k, v in bnet.net.state_dict().items()}
    bnet.train()
    bp.report(bnet, bp.masks(bnet, keep=0.4), loader, draws=2)
    assert bnet.training and bnet.net.training
    assert all(torch.equal(v, before[k]) for k, v in bnet.net.state_dict().items())


def test_it_prints_and_serialises(found: bp.Report) -> None:
    text = str(found)
    assert "0.weight" in text and "posterior mean, pruned" in text
    assert "Error" in text and f"{found.verdict.error.after:.2%}" in text
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["weights"][0]["kept"] == found.weights[0].kept
    assert again["verdict"]["error"]["low"] == found.verdict.error.low
    assert again["seed"] == 3 and again["draws"] == 5


def test_moments_are_computed_once(
    fitted: tuple[bp.BayesianNet, DataLoader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a report with all its rows, by its page, and by a sweep of two seeds, two budgets and three rankings."""
    bnet, loader = fitted
    masks, calls = bp.masks(bnet, keep=0.4), dict.fromkeys(bnet.posteriors, 0)
    rival = bnet.means(), masks
    for name, posterior in bnet.posteriors.items():

        def moments(name: str = name, own: Callable[[], object] = posterior.moments) -> object:
            calls[name] += 1
            return own()

        monkeypatch.setattr(posterior, "moments", moments)
    made = bp.report(bnet, masks, loader, draws=2, baseline=rival)
    assert set(calls.values()) == {1}
    made.to_html(tmp_path / "report.html")
    assert set(calls.values()) == {2}
    bp.sweep(bnet, loader, keep=[0.5, 0.3], seeds=[0, 1])
    assert set(calls.values()) == {3}


def test_every_rival_is_packed_weighed_and_timed(
    fitted: tuple[bp.BayesianNet, DataLoader], found: bp.Report, tmp_path: Path
) -> None:
    """Its masks exported as ours are: the bytes are those of its file, and the clock ran in turns with all others."""
    bnet, loader = fitted
    control = {**bnet.means()}
    made = bp.report(bnet, bp.masks(bnet, keep=0.4), loader, draws=2, control=control)
    for m in (*found.models, *made.models):
        assert m.nbytes > 0 and m.seconds > 0 and m.speedup > 0, m.name
        assert units.size(m.nbytes) in str(found if m in found.models else made)
    assert row(made, "dense control").nbytes == row(made, "dense").nbytes
    masks = bp.masks(bnet, keep=0.4)
    rival = bp.export(bnet.net, bnet.means(), masks, example=loader.dataset.tensors[0][:60])
    bp.save(rival, tmp_path / "rival.safetensors")
    assert row(found, "trained rival").nbytes == (tmp_path / "rival.safetensors").stat().st_size
    line = next(x for x in verdict_lines(found) if x.title == "Against trained rival")
    assert units.size(row(found, "trained rival").nbytes) in line.told
    assert units.latency(row(found, "trained rival").seconds) in line.told


def test_sizes_times_and_ratios_are_told_in_plain_units(found: bp.Report) -> None:
    text = str(found)
    assert " kB" in text and " ms" in text and "1/" not in text and " µs" not in text
    slow = row(found, "posterior predictive")
    assert slow.speedup < 1 and f"{units.speed(slow.speedup)}" in text and "× slower" in text


def test_the_names_of_the_statistics_are_footnotes(found: bp.Report) -> None:
    lines = verdict_lines(found)
    marks = footnotes(lines)
    assert not any(name in line.told for line in lines for name in ("Agresti", "McNemar", "Wilson", "bootstrap"))
    text = " ".join(str(found).split())
    for note, mark in marks.items():
        assert text.count(note) == 1 and f"{mark} {note}" in text
    assert any("Agresti & Min 2005" in note for note in marks) and len(set(marks.values())) == len(marks)


def test_rows_say_what_they_are(found: bp.Report) -> None:
    roles = [(m.role, m.role.rival) for m in found.models]
    assert roles == [
        (Role.DENSE, False),
        (Role.PRUNED, False),
        (Role.PREDICTIVE, False),
        (Role.ONE_SHOT, True),
        (Role.BY_MEAN, True),
        (Role.TRAINED, True),
    ]
    assert [m["role"] for m in found.to_dict()["models"]] == [role.name.lower() for role, _ in roles]
    assert set(found.verdict.rivals) == {m.name for m in found.models if m.role.rival}


def test_bytes_are_given_dense_packed_and_compressed(found: bp.Report) -> None:
    *parts, whole = found.sizes
    assert [s.name for s in parts[:-1]] == [w.name for w in found.weights]
    for which in ("dense", "packed", "compressed"):
        assert sum(getattr(s, which) for s in parts) == getattr(whole, which)
    assert whole.dense == 4 * sum(p.numel() for p in found.subject.bnet.net.parameters())
    for size, weight in zip(parts, found.weights, strict=False):
        assert size.packed == weight.choice.nbytes and size.dense == weight.choice.dense_nbytes
        assert 0 < size.compressed < size.dense and units.size(size.compressed) in str(found)
    assert found.to_dict()["sizes"][-1]["ratio"] == pytest.approx(whole.dense / whole.compressed)


@pytest.mark.parametrize("width", [80, 140])
def test_a_terminal_cuts_no_number_and_no_name(found: bp.Report, width: int) -> None:
    console = Console(file=StringIO(), width=width)
    console.print(found)
    text = console.file.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    for model in found.models:
        assert f"{model.score.error:.2%} ±" in text and model.name.split()[0] in text
    for weight in found.weights:
        assert units.size(weight.choice.nbytes) in text and weight.name in text


def test_names_with_brackets_are_printed_as_they_are() -> None:
    console = Console(file=StringIO(), width=60)
    console.print(Table("T", frozenset(("name",)), ("name",), (("blocks[red].weight",),)))
    assert "blocks[red].weight" in console.file.getvalue()


def wrong(fitted: tuple[bp.BayesianNet, DataLoader], values: dict, masks: dict) -> torch.Tensor:
    return probabilities(fitted, values, masks).argmax(-1) != fitted[1].dataset.tensors[1]


def test_the_verdict_equals_direct_computation(
    fitted: tuple[bp.BayesianNet, DataLoader], found: bp.Report, tmp_path: Path
) -> None:
    bnet, loader = fitted
    x, y = loader.dataset.tensors
    verdict, masks = found.verdict, bp.masks(bnet, keep=0.4)
    bp.save(bnet.net, tmp_path / "dense.safetensors")
    packed = bp.export(bnet.net, bnet.means(), masks, example=x[:60], plan=found.plan)
    bp.save(packed, tmp_path / "packed.safetensors")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("dense", "packed")]
    assert [verdict.dense.nbytes, verdict.packed.nbytes] == sizes
    assert verdict.smaller == sizes[0] / sizes[1]
    assert verdict.faster == row(found, "posterior mean").speedup
    before, after = wrong(fitted, dict(bnet.net.named_parameters()), {}), wrong(fitted, bnet.means(), masks)
    assert verdict.error == paired_errors(before, after)
    assert verdict.error.difference == pytest.approx(float(after.double().mean() - before.double().mean()))
    rises = {k: float(after[y == k].double().mean() - before[y == k].double().mean()) for k in range(4)}
    worst = max(rises, key=rises.__getitem__)
    assert verdict.worst.name == str(worst) and verdict.worst.rise == pytest.approx(rises[worst])
    low, high = wilson_interval(after[y == worst].sum(), torch.tensor(int((y == worst).sum())))
    assert (verdict.worst.low, verdict.worst.high) == (float(low), float(high))
    assert [c.name for c in found.classes] == [str(k) for k in sorted(rises, key=lambda k: -rises[k])]
    assert verdict.rivals["trained rival"].difference == 0


def test_losses_average_to_the_scores(found: bp.Report) -> None:
    for model in found.models:
        each = found.subject.found.losses[model.name]
        assert float(each.nll.mean()) == pytest.approx(model.score.nll, rel=1e-6)
        assert float(each.wrong.double().mean()) == pytest.approx(model.score.error)


def test_classes_go_by_their_names(fitted: tuple[bp.BayesianNet, DataLoader]) -> None:
    bnet, loader = fitted
    names = ["ant", "bee", "cat", "dog"]
    plan = bp.plan(bnet.net, bp.masks(bnet, keep=0.4), example=loader.dataset.tensors[0])
    found = bp.report(bnet, bp.masks(bnet, keep=0.4), loader, draws=1, classes=names, plan=plan)
    assert {c.name for c in found.classes} == set(names) and found.verdict.worst.name in names
    with pytest.raises(ValueError, match="4 classes, got 2"):
        bp.report(bnet, bp.masks(bnet, keep=0.4), loader, draws=1, classes=["ant", "bee"], plan=plan)


def cells(b: int, c: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Wrong before and after, where ``b`` of ``n`` are lost and ``c`` are won."""
    index = torch.arange(n)
    return (index >= b) & (index < b + c), index < b


@pytest.mark.parametrize(("b", "c", "n"), [(0, 0, 10), (5, 0, 100), (3, 9, 40), (20, 20, 500)])
def test_the_paired_interval_is_wald_with_half_an_example_in_each_cell(b: int, c: int, n: int) -> None:
    change = paired_errors(*cells(b, c, n))
    lost, won, total = b + 0.5, c + 0.5, n + 2.0
    d = (lost - won) / total
    half = 1.959963984540054 * math.sqrt(((lost + won) / total - d**2) / total)
    assert (change.low, change.high) == pytest.approx((d - half, d + half), abs=1e-12)
    assert change.difference == pytest.approx((b - c) / n)
    k, m = min(b, c), b + c
    tail = 2 * sum(math.comb(m, i) for i in range(k + 1)) / 2**m  # both tails of a fair coin
    assert change.p == pytest.approx(min(tail, 1.0))


@pytest.mark.parametrize(("lost", "won"), [(0.05, 0.05), (0.1, 0.02), (0.3, 0.2)])
def test_the_paired_interval_covers(lost: float, won: float) -> None:
    """All outcomes of 30 examples, each weighed by its probability."""
    n, covered = 30, 0.0
    for b, c in product(range(n + 1), repeat=2):
        if b + c <= n:
            ways = math.comb(n, b) * math.comb(n - b, c)
            change = paired_errors(*cells(b, c, n))
            if change.low <= lost - won <= change.high:
                covered += ways * lost**b * won**c * (1 - lost - won) ** (n - b - c)
    assert 0.94 <= covered <= 1


def test_the_bootstrap_agrees_with_large_sample_theory() -> None:
    a = torch.rand(4000, dtype=torch.float64)
    b = a + 0.2 * torch.randn(4000, dtype=torch.float64) + 0.01
    difference, se = float((b - a).mean()), float((b - a).std()) / 4000**0.5
    change = paired_means(a, b)
    assert change.difference == pytest.approx(difference)
    assert (change.low, change.high) == pytest.approx((difference - 1.96 * se, difference + 1.96 * se), abs=0.15 * se)
    a, b = a.square(), b.square()
    roots = [float(x.mean().sqrt()) for x in (a, b)]
    influence = b / (2 * roots[1]) - a / (2 * roots[0])  # of each example on the difference of the roots
    se = float(influence.std()) / 4000**0.5
    change = paired_means(a, b, root=True)
    assert (change.before, change.after) == pytest.approx(roots)
    ends = change.difference - 1.96 * se, change.difference + 1.96 * se
    assert (change.low, change.high) == pytest.approx(ends, abs=0.15 * se)


def test_one_example_has_no_interval() -> None:
    change = paired_means(torch.tensor([1.0]), torch.tensor([2.0]))
    assert math.isnan(change.low) and change.direction == 0
    assert change.to_dict()["low"] is None
    assert mcnemar(torch.tensor([True]), torch.tensor([True])) == 1.0


def test_regression_reports_rmse_and_likelihood() -> None:
    torch.manual_seed(0)
    x = torch.randn(100, 6)
    y = x[:, :1] * 2 + 0.1 * torch.randn(100, 1)
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(6, 1)), {"0.weight": bp.Gaussian()})
    loader = DataLoader(TensorDataset(x, y), batch_size=50)
    bp.fit(bp.regress(bnet, 100), bnet.guide, loader, epochs=100, lr=3e-2, seed=0)
    found = bp.report(bnet, bp.masks(bnet, keep=0.5), loader, draws=4, seed=0)
    with torch.no_grad():
        masked = bnet.means()["0.weight"] * bp.masks(bnet, keep=0.5)["0.weight"]
        direct = (nn.functional.linear(x, masked, bnet.means()["0.bias"]) - y).square().mean().sqrt()
    score = row(found, "posterior mean").score
    assert score.rmse == pytest.approx(float(direct), rel=1e-5)
    verdict = found.verdict
    assert score.error is None and verdict.error is None and verdict.worst is None and found.classes == ()
    assert verdict.rmse.after == pytest.approx(float(direct), rel=1e-5)
    assert verdict.nll.after == pytest.approx(score.nll, rel=1e-6)
    assert verdict.coverage.after == pytest.approx(row(found, "posterior predictive").score.coverage)
    losses = found.subject.found.losses
    paired = paired_means(losses["dense"].squared, losses["posterior mean, pruned"].squared, root=True)
    assert verdict.rmse == paired and set(verdict.rivals) == {rival.name for rival in found.subject.found.rivals}
    text = str(found)
    assert all(word in text for word in ("RMSE", "Coverage", "NLL")) and "Worst class" not in text
    assert "ece" not in json.loads(json.dumps(found.to_dict(), allow_nan=False))["verdict"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int8])
def test_labels_of_any_width_give_the_same_report(
    fitted: tuple[bp.BayesianNet, DataLoader], dtype: torch.dtype
) -> None:
    bnet, loader = fitted
    x, y = loader.dataset.tensors
    masks = bp.masks(bnet, keep=0.4)
    plan = bp.plan(bnet.net, masks, example=x)
    wide, narrow = ([(x, labels)] for labels in (y, y.to(dtype)))
    mine, theirs = (bp.report(bnet, masks, data, draws=2, seed=0, plan=plan) for data in (narrow, wide))
    assert [m.score for m in mine.models] == [m.score for m in theirs.models] and mine.classes == theirs.classes
    curves = [bp.sweep(bnet, data, keep=[0.4], saliencies=[bp.snr]).points for data in (narrow, wide)]
    assert curves[0] == curves[1]


def test_masks_that_do_not_fit_are_refused(fitted: tuple[bp.BayesianNet, DataLoader]) -> None:
    bnet, loader = fitted
    with pytest.raises(ValueError, match=r"'nope'.*0\.weight"):
        bp.report(bnet, {"nope": torch.ones(3, dtype=torch.bool)}, loader)
    with pytest.raises(ValueError, match=r"\(32, 12\)"):
        bp.report(bnet, {"0.weight": torch.ones(3, dtype=torch.bool)}, loader)
    with pytest.raises(ValueError, match="no batches"):
        bp.report(bnet, bp.masks(bnet, keep=0.4), [])


def test_what_cannot_be_compared_is_refused(fitted: tuple[bp.BayesianNet, DataLoader]) -> None:
    bnet, loader = fitted
    masks = bp.masks(bnet, keep=0.4)
    plan = bp.plan(bnet.net, masks, example=loader.dataset.tensors[0])
    report: Callable[..., bp.Report] = lambda data, **more: bp.report(bnet, masks, data, draws=1, plan=plan, **more)  # noqa: E731
    shuffled = DataLoader(loader.dataset, batch_size=60, shuffle=True)
    with pytest.raises(ValueError, match="shuffle=False"):
        report(shuffled)
    with pytest.raises(ValueError, match="'dense' of its own"):
        report(loader, baseline={"dense": (bnet.means(), masks)})
    with pytest.raises(ValueError, match="no targets"):
        report([loader.dataset.tensors[0]])
    unknown = bp.BayesianNet(bnet.net, {"*.weight": bp.SparseVD()})
    with pytest.raises(ValueError, match=r"bp\.classify or bp\.regress"):
        bp.report(unknown, masks, loader, plan=plan)
