"""The curve's numbers are those of the masked nets, evaluated directly."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.corruptions import gaussian_noise, rotate
from bayesprune.evaluation import classification as metrics
from bayesprune.pruning.masking import BudgetWarning

DEEP = pytest.mark.filterwarnings("ignore::bayesprune.BudgetWarning", "ignore::bayesprune.EmptyLayerWarning")
Fitted = tuple[bp.BayesianNet, DataLoader]
KEEP = [0.5, 0.1, 0.02]


def image_net(seed: int) -> Fitted:
    torch.manual_seed(seed)
    x = torch.rand(300, 1, 6, 6)
    y = ((x.flatten(1)[:, :4] - 0.5) @ torch.randn(4, 3)).argmax(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 3))
    bnet = bp.BayesianNet(net, {"*.weight": bp.SparseVD()})
    loader = DataLoader(TensorDataset(x, y), batch_size=100)
    bp.fit(bp.classify(bnet, 300), bnet.guide, loader, epochs=10, lr=1e-2, seed=seed, progress=False)
    return bnet, loader


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return image_net(0)


@pytest.fixture(scope="module")
def curve(fitted: Fitted) -> bp.Curve:
    bnet, loader = fitted
    return bp.sweep(bnet, loader, keep=KEEP, seeds=[0, 7], corruptions=[gaussian_noise, rotate], severities=[2, 5])


def probabilities(bnet: bp.BayesianNet, masks: dict[str, Tensor], x: Tensor) -> Tensor:
    values = {name: value * masks[name] if name in masks else value for name, value in bnet.means().items()}
    with torch.no_grad():
        return functional_call(bnet.net, values, (x,)).double().softmax(-1)


@DEEP
def test_every_point_is_what_direct_evaluation_gives(fitted: Fitted, curve: bp.Curve) -> None:
    bnet, loader = fitted
    x, y = loader.dataset.tensors
    rankings = {"snr": bp.snr, "magnitude": bp.magnitude, "random": bp.random}
    shifts = {"gaussian_noise": gaussian_noise, "rotate": rotate}
    for point in curve.points:
        if point.saliency == "unpruned":
            masks = {}
        else:
            torch.manual_seed(point.seed)
            masks = bp.masks(bnet, keep=point.asked, saliency=rankings[point.saliency])
        shown = x
        if point.corruption is not None:
            parts = enumerate(x.split(100))
            shown = torch.cat([shifts[point.corruption](p, point.severity, seed=point.seed + i) for i, p in parts])
        probs = probabilities(bnet, masks, shown)
        wrong = metrics.class_errors(probs, y).error
        assert point.score.error == metrics.error(probs, y)
        assert point.score.nll == pytest.approx(metrics.negative_log_likelihood(probs, y), rel=1e-5)
        assert point.score.ece == pytest.approx(metrics.expected_calibration_error(probs, y), abs=1e-5)
        assert point.score.brier == pytest.approx(metrics.brier_score(probs, y), rel=1e-5)
        np.testing.assert_array_equal(point.score.class_errors, wrong.numpy())
        if masks:
            assert point.weights == sum(int(m.sum()) for m in masks.values())
            assert point.kept == pytest.approx(point.weights / (36 * 16 + 16 * 3))
            rise = wrong - metrics.class_errors(probabilities(bnet, {}, shown), y).error
            assert point.worst_rise == pytest.approx(float(rise.max()), abs=1e-12)
            assert float(rise[point.worst_class]) == pytest.approx(float(rise.max()), abs=1e-12)


def test_there_is_a_point_for_all_that_was_asked(curve: bp.Curve) -> None:
    seen = {(p.saliency, p.asked, p.seed, p.corruption, p.severity) for p in curve.points}
    assert len(seen) == len(curve.points) == (3 * 3 + 1) * 2 * 5
    snr, rand = (
        [p.weights for p in curve.points if p.saliency == s and p.severity == 0 and p.asked == 0.1]
        for s in ("snr", "random")
    )
    assert snr[0] == snr[1] and len(rand) == 2


@DEEP
def test_bytes_are_those_of_the_saved_file(fitted: Fitted, curve: bp.Curve, tmp_path) -> None:
    bnet, loader = fitted
    example = loader.dataset.tensors[0][:4]
    for asked in KEEP[:2]:
        masks = bp.masks(bnet, keep=asked)
        bp.save(bp.export(bnet.net, bnet.means(), masks, example=example, formats={"*": bp.Dense()}), tmp_path / "m")
        header = int.from_bytes((tmp_path / "m").read_bytes()[:8], "little")
        point = next(p for p in curve.points if p.saliency == "snr" and p.asked == asked)
        assert point.nbytes == pytest.approx((tmp_path / "m").stat().st_size - 8 - header, abs=64)


@DEEP
def test_draws_are_scored_as_predict_gives_them(fitted: Fitted) -> None:
    bnet, loader = fitted
    found = bp.sweep(bnet, loader, keep=[0.3], saliencies=[bp.snr], seeds=[3], draws=4).points[1]
    prediction = bp.predict(bnet, loader, draws=4, seed=3, masks=bp.masks(bnet, keep=0.3))
    assert found.score.nll == pytest.approx(metrics.negative_log_likelihood(prediction.mean, prediction.targets))
    assert found.score.error == metrics.error(prediction.mean, prediction.targets)


def test_several_nets_give_a_spread(fitted: Fitted) -> None:
    bnet, loader = fitted
    other = image_net(1)[0]
    curve = bp.sweep([bnet, other], loader, keep=[0.2], saliencies=[bp.snr])
    alone = bp.sweep(other, loader, keep=[0.2], saliencies=[bp.snr])
    assert [p.net for p in curve.points] == [0, 0, 1, 1]
    assert [p.score for p in curve.points[2:]] == [p.score for p in alone.points]


@DEEP
def test_what_the_fit_pruned_stays_pruned() -> None:
    bnet, loader = image_net(2)
    bnet.prune(bp.masks(bnet, keep=0.2))
    points = bp.sweep(bnet, loader, keep=[0.5, 0.1], saliencies=[bp.magnitude]).points
    assert [round(p.kept, 2) for p in points] == [0.2, 0.2, 0.1]
    assert points[0].score == points[1].score


def test_latency_is_measured_where_asked(fitted: Fitted) -> None:
    bnet, loader = fitted
    points = bp.sweep(bnet, loader, keep=[0.1], saliencies=[bp.snr], latency=True).points
    assert all(p.seconds is not None and p.speedup is not None and p.seconds > 0 and p.speedup > 0 for p in points)


def test_nothing_else_is_touched(fitted: Fitted, recwarn: pytest.WarningsRecorder) -> None:
    bnet, loader = fitted
    bnet.train()
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in bnet.state_dict().items()}
    bp.sweep(bnet, loader, keep=[0.001], draws=2)
    assert torch.equal(state, torch.get_rng_state()) and bnet.training
    assert all(torch.equal(v, before[k]) for k, v in bnet.state_dict().items())
    assert not [w for w in recwarn if issubclass(w.category, (BudgetWarning, bp.EmptyLayerWarning))]


def test_frame_and_dict_hold_the_points(curve: bp.Curve) -> None:
    frame = curve.to_frame()
    assert len(frame) == len(curve.points)
    for row, point in zip(frame.itertuples(), curve.points, strict=True):
        assert (row.saliency, row.asked, row.severity, row.error) == (
            point.saliency, point.asked, point.severity, point.score.error,
        )  # fmt: skip
        assert row.error_2 == point.score.class_errors[2]
    again = json.loads(json.dumps(curve.to_dict(), allow_nan=False))
    assert again["points"][3]["nll"] == curve.points[3].score.nll
    assert "gaussian_noise" in str(curve) and "worst_rise" in str(curve)


def test_a_class_without_examples_has_no_rise(fitted: Fitted) -> None:
    bnet, loader = fitted
    x, y = loader.dataset.tensors
    point = bp.sweep(bnet, [(x[y > 0], y[y > 0])], keep=[0.1], saliencies=[bp.snr]).points[1]
    assert point.worst_class in (1, 2) and math.isfinite(point.worst_rise)
    assert point.to_dict()["class_errors"][0] is None


def test_regression_has_rmse_likelihood_and_coverage() -> None:
    torch.manual_seed(0)
    x = torch.randn(100, 6)
    y = x[:, :1] * 2 + 0.1 * torch.randn(100, 1)
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(6, 1)), {"0.weight": bp.Gaussian()})
    loader = DataLoader(TensorDataset(x, y), batch_size=50)
    bp.fit(bp.regress(bnet, 100), bnet.guide, loader, epochs=100, lr=3e-2, seed=0, progress=False)
    curve = bp.sweep(bnet, loader, keep=[0.5], saliencies=[bp.snr])
    found = curve.points[1]
    with torch.no_grad():
        mask = bp.masks(bnet, keep=0.5)["0.weight"]
        residual = nn.functional.linear(x, bnet.means()["0.weight"] * mask, bnet.means()["0.bias"]) - y
    noise = bnet.observation.noise
    assert found.score.rmse == pytest.approx(float(residual.square().mean().sqrt()), rel=1e-5)
    expected = 0.5 * (residual / noise).square() + math.log(noise) + 0.5 * math.log(2 * math.pi)
    assert found.score.nll == pytest.approx(float(expected.mean()), rel=1e-5)
    assert found.score.coverage == pytest.approx(float((residual.abs() <= 1.959964 * noise).double().mean()))
    assert {"rmse", "nll", "coverage"} <= set(curve.to_frame()) and "error" not in curve.to_frame()


def test_bad_input_is_refused(fitted: Fitted) -> None:
    bnet, loader = fitted
    for wrong, message in (
        ({"keep": []}, "keep"),
        ({"keep": [0.5, 0]}, r"\(0, 1\]"),
        ({"saliencies": []}, "saliencies"),
        ({"saliencies": [bp.snr, bp.snr]}, "names"),
        ({"seeds": []}, "seeds"),
        ({"draws": 0}, "draws"),
        ({"corruptions": [rotate], "severities": [6]}, "1 to 5"),
    ):
        with pytest.raises(ValueError, match=message):
            bp.sweep(bnet, loader, **wrong)
    with pytest.raises(ValueError, match="no batches"):
        bp.sweep(bnet, [])
    with pytest.raises(ValueError, match="no targets"):
        bp.sweep(bnet, [torch.zeros(2, 1, 6, 6)])
    with pytest.raises(ValueError, match="nets"):
        bp.sweep([], loader)
