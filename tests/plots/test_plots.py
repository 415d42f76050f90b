"""Each picture shows the numbers that it is made of."""

import math
import re
from collections.abc import Iterator

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from support.paths import ROOT
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.evaluation import classification as metrics
from bayesprune.evaluation.prediction import Prediction
from bayesprune.evaluation.ranking import auroc
from bayesprune.plots.signal import used_cuts
from bayesprune.sparse.planning.plan import Choice

matplotlib.use("Agg")
DOCS = ROOT / "docs"
Fitted = tuple[bp.BayesianNet, DataLoader, bp.History]


@pytest.fixture(autouse=True)
def drawn_and_closed() -> Iterator[None]:
    """Every figure that a test leaves open can be drawn."""
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    torch.manual_seed(0)
    x = torch.randn(240, 12)
    y = (x[:, :3] @ torch.randn(3, 4)).argmax(1)
    net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
    bnet = bp.BayesianNet(net, {"0.weight": bp.SparseVD(bp.Block(4, 1)), "2.weight": bp.SparseVD()})
    loader = DataLoader(TensorDataset(x, y), batch_size=60)
    model = bp.classify(bnet, 240)
    history = bp.fit(model, bnet.guide, loader, epochs=8, lr=1e-2, seed=0, prune=bp.Cubic(0.5), progress=False)
    return bnet, loader, history


def heights(ax: plt.Axes) -> list[float]:
    return [patch.get_height() for patch in ax.patches]


def widths(ax: plt.Axes) -> list[float]:
    return [patch.get_width() for patch in ax.patches]


def legend(ax: plt.Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_an_ax_goes_in_and_comes_out(fitted: Fitted) -> None:
    bnet, *_ = fitted
    masks = bp.masks(bnet, keep=0.4)
    ax, before = Figure().subplots(), plt.get_fignums()
    assert bp.plots.kept_fractions(masks, ax=ax) is ax
    assert plt.get_fignums() == before  # pyplot is left alone
    own = bp.plots.kept_fractions(masks)
    assert plt.get_fignums() == [*before, own.figure.number]


# -- which weights are sure


def test_the_histogram_counts_every_group(fitted: Fitted) -> None:
    bnet, *_ = fitted
    masks = bp.masks(bnet, keep=0.4)
    axes = bp.plots.snr_histograms(bnet, masks)
    for ax, (name, mask) in zip(axes, masks.items(), strict=True):
        p = bnet.posteriors[name]
        kept = int((p.pattern.pool(mask.int(), p.layout) > 0).sum())
        assert sum(heights(ax)[:40]) == kept and sum(heights(ax)[40:]) == p.kept.numel() - kept
        assert ax.get_title() == f"{name}: {kept} of {p.kept.numel()} kept"
        assert ax.lines[0].get_xdata()[0] == pytest.approx(math.log10(0.22), abs=0.01)
    with pytest.raises(ValueError, match="2 panels"):
        bp.plots.snr_histograms(bnet, masks, axes=axes[0])
    with pytest.raises(ValueError, match="no posterior"):
        bp.plots.snr_histograms(bnet, {"nope": masks["0.weight"]})


def test_bars_stand_at_their_ratios() -> None:
    """Six weights whose ratios are known, two of them off the scale."""
    bnet = bp.BayesianNet(nn.Linear(6, 1), {"weight": bp.SparseVD()})
    ratios = torch.tensor([[1e-9, 0.0, 0.01, 0.1, 1.0, 10.0]])
    with torch.no_grad():
        _, var = bnet.posteriors["weight"].moments()
        bnet.posteriors["weight"].get_parameter("loc").copy_(ratios * var.sqrt())
    [ax] = bp.plots.snr_histograms(bnet, bp.masks(bnet, snr=0.5))
    found = [(p.get_x(), p.get_x() + p.get_width(), p.get_height()) for p in ax.patches if p.get_height()]
    for decade, (low, high, groups) in zip((-3, -2, -1, 0, 1), sorted(found), strict=True):
        assert low - 1e-6 <= decade <= high + 1e-6 and groups == (2 if decade == -3 else 1)
    ax = bp.plots.snr_against_mean(bnet, bp.masks(bnet, snr=0.5), "weight", threshold=0.5)
    others, kept = (c.get_offsets().data for c in ax.collections)
    np.testing.assert_allclose(np.sort(others[:, 1]), [0.01, 0.1], rtol=1e-4)
    np.testing.assert_allclose(np.sort(kept[:, 1]), [1, 10], rtol=1e-4)
    np.testing.assert_allclose(np.sort(kept[:, 0]), np.sort((ratios * var.sqrt())[0, 4:].numpy()), rtol=1e-4)
    assert legend(ax) == ["not kept (2 under 0.001 not shown)", "kept", "threshold 0.5"]
    with pytest.raises(ValueError, match=r"'nope'.*weight"):
        bp.plots.snr_against_mean(bnet, bp.masks(bnet, snr=0.5), "nope")


def test_a_histogram_of_heads_shows_the_nets_own_ratios() -> None:
    """A head is one decision over two weights: both pictures show the ratio of both together."""
    torch.manual_seed(0)
    bnet = bp.BayesianNet(nn.MultiheadAttention(24, 8), {"*weight": bp.SparseVD(bp.Heads(8))})
    for name, scale in (("in_proj_weight", 1.0), ("out_proj.weight", 30.0)):  # alone, each has ratios of its own
        posterior = bnet.posteriors[name]
        posterior.get_parameter("loc").data.normal_().mul_(scale * torch.rand(1, 24))
        posterior.get_parameter("log_scale").data.normal_()
    masks, ratios = bp.masks(bnet, keep=0.5), bnet.snr()
    axes = bp.plots.snr_histograms(bnet, masks)
    for ax, name in zip(axes, masks, strict=True):
        patches = ax.patches[:40]
        edges = [patch.get_x() for patch in patches] + [patches[-1].get_x() + patches[-1].get_width()]
        drawn = np.add(heights(ax)[:40], heights(ax)[40:])
        np.testing.assert_array_equal(drawn, np.histogram(ratios[name].double().log10().numpy(), edges)[0])
        points = bp.plots.snr_against_mean(bnet, masks, name).collections
        shown = np.concatenate([c.get_offsets().data[:, 1] for c in points])
        np.testing.assert_allclose(np.sort(shown), np.sort(ratios[name].numpy()), rtol=1e-6)
    alone = bnet.posteriors["in_proj_weight"].moments()
    p = bnet.posteriors["in_proj_weight"]
    signal, noise = (p.pattern.pool(x, p.layout) for x in (alone[0].square(), alone[1]))
    assert not torch.allclose((signal / noise).sqrt(), ratios["in_proj_weight"], rtol=0.1)


def test_few_points_are_drawn_of_many(fitted: Fitted) -> None:
    bnet, *_ = fitted
    ax = bp.plots.snr_against_mean(bnet, bp.masks(bnet, keep=0.4), "2.weight", most=10)
    assert all(0 < len(c.get_offsets()) <= 10 for c in ax.collections)


# -- what is kept


def test_a_mask_is_seen_entry_by_entry(fitted: Fitted) -> None:
    bnet, *_ = fitted
    masks = bp.masks(bnet, keep=0.4)
    ax = bp.plots.mask_image(bnet, masks, "0.weight")
    np.testing.assert_array_equal(ax.images[0].get_array(), masks["0.weight"].numpy())
    # outlines of blocks of 4 × 1: 7 lines across the whole width, 11 upright ones
    segments = ax.collections[0].get_segments()
    assert len(segments) == 7 + 11
    across = sorted(float(s[0, 1]) for s in segments if s[0, 1] == s[1, 1])
    assert across == [4 * k - 0.5 for k in range(1, 8)]
    part = bp.plots.mask_image(bnet, masks, "0.weight", outputs=slice(6, 18), inputs=slice(2, 5))
    np.testing.assert_array_equal(part.images[0].get_array(), masks["0.weight"][6:18, 2:5].numpy())
    assert part.images[0].get_extent() == [1.5, 4.5, 17.5, 5.5]
    with pytest.raises(ValueError, match="32 × 12"):
        bp.plots.mask_image(bnet, masks, "0.weight", outputs=slice(40, 50))


def test_a_convolutions_mask_is_laid_out_by_role() -> None:
    conv = nn.ConvTranspose2d(3, 4, 2)  # its weight is (inputs, outputs, 2, 2)
    bnet = bp.BayesianNet(nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), {"0.weight": bp.SparseVD(bp.Channel(1))})
    kept = torch.zeros(3, 4, 2, 2, dtype=torch.bool)
    kept[:, 2] = True
    ax = bp.plots.mask_image(bnet, {"0.weight": kept}, "0.weight")
    image = np.zeros((4, 12))
    image[2] = 1
    np.testing.assert_array_equal(ax.images[0].get_array(), image)
    assert len(ax.collections[0].get_segments()) == 3  # one between outputs, none between inputs
    assert "4 kernel positions" in ax.get_xlabel()


def test_kept_fractions_are_bars_in_per_cent(fitted: Fitted) -> None:
    bnet, *_ = fitted
    masks = bp.masks(bnet, keep=0.4)
    ax = bp.plots.kept_fractions(masks)
    assert widths(ax) == pytest.approx([100 * float(m.double().mean()) for m in masks.values()])
    assert [t.get_text() for t in ax.texts] == [f"{int(m.sum())} of {m.numel()}" for m in masks.values()]
    assert [t.get_text() for t in ax.get_yticklabels()] == list(masks)


def test_the_receptive_field_counts_weights_per_pixel() -> None:
    mask = torch.zeros(5, 2 * 3 * 4, dtype=torch.bool)
    mask[:3, 7] = True  # first channel, row 1, column 3
    mask[0, 12 + 7] = mask[2, 12] = True  # second channel, the same pixel and the first
    ax = bp.plots.receptive_field(mask, (3, 4))
    expected = np.zeros((3, 4))
    expected[1, 3], expected[0, 0] = 4, 1
    np.testing.assert_array_equal(ax.images[0].get_array(), expected)
    assert ax.get_title().startswith("2 of 12 pixels")
    with pytest.raises(ValueError, match="channels · 5 · 5"):
        bp.plots.receptive_field(mask, (5, 5))


# -- curves


@pytest.mark.parametrize("metric", [None, "nll", "worst_rise", "bytes"])
def test_the_curve_shows_the_frames_means_and_ranges(fitted: Fitted, metric: str | None) -> None:
    bnet, loader, _ = fitted
    curve = bp.sweep([bnet, bnet], loader, keep=[0.4, 0.1], seeds=[0, 1, 2])
    ax = curve.plot(metric)
    column = metric or "error"
    factor = 100 if column in ("error", "worst_rise") else 1
    frame = curve.to_frame()
    lines = {line.get_label(): line for line in ax.lines}
    for name in ("snr", "magnitude", "random"):
        rows = frame[frame["saliency"] == name]
        means = [factor * rows[rows["asked"] == k][column].mean() for k in (0.1, 0.4)]
        np.testing.assert_allclose(lines[name].get_ydata(), means)
        kept = [100 * rows[rows["asked"] == k]["kept"].mean() for k in (0.1, 0.4)]
        np.testing.assert_allclose(lines[name].get_xdata(), kept)
    rows = frame[(frame["saliency"] == "random") & (frame["asked"] == 0.1)]
    heights_of_band = ax.collections[2].get_paths()[0].vertices[:, 1]
    assert heights_of_band.min() <= factor * rows[column].min() + 1e-9
    if column != "worst_rise":  # the unpruned net has none
        before = factor * frame[frame["saliency"] == "unpruned"][column].mean()
        assert lines["unpruned"].get_ydata()[0] == pytest.approx(before)
    assert ax.get_xlabel() == "weights kept, %" and "_" not in ax.get_ylabel()


def test_a_curve_under_shift_draws_the_clean_rows(fitted: Fitted) -> None:
    bnet, loader, _ = fitted
    frame = bp.sweep(bnet, loader, keep=[0.4, 0.1], saliencies=[bp.snr]).to_frame()
    spoilt = frame.assign(severity=3, corruption="rotate", error=1.0)
    clean = bp.plots.sparsity_curve(frame).lines[0].get_ydata()
    both = bp.plots.sparsity_curve(pd.concat([frame, spoilt])).lines[0].get_ydata()
    np.testing.assert_array_equal(clean, both)
    assert set(bp.plots.sparsity_curve(spoilt).lines[0].get_ydata()) == {100.0}
    with pytest.raises(ValueError, match=r"'rmse'.*error"):
        bp.plots.sparsity_curve(frame, metric="rmse")


def test_shift_shows_the_mean_of_each_corruption(fitted: Fitted) -> None:
    bnet, loader, _ = fitted
    frame = bp.sweep(bnet, loader, keep=[0.4], saliencies=[bp.snr, bp.magnitude]).to_frame()
    with pytest.raises(ValueError, match="no corruptions"):
        bp.plots.shift(frame)
    spoilt = [
        frame.assign(corruption=c, severity=s, error=s / 10) for c, s in (("rotate", 1), ("rotate", 4), ("jpeg", 2))
    ]
    ax = bp.plots.shift(pd.concat([frame.assign(corruption=None), *spoilt]))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["clean", "rotate", "jpeg"]
    for line, error in zip(ax.lines, frame["error"], strict=True):
        np.testing.assert_allclose(line.get_xdata(), [100 * error, 25, 20])
    assert legend(ax) == ["unpruned", "snr, 40 % kept", "magnitude, 40 % kept"]


def test_training_curves_are_the_historys(fitted: Fitted) -> None:
    *_, history = fitted
    nll, kl, kept = bp.plots.training_curves(history)
    for ax, values in ((nll, history.nll), (kl, history.kl), (kept, [100 * k for k in history.kept])):
        assert ax.lines[0].get_xdata().tolist() == list(range(1, 9))
        np.testing.assert_allclose(ax.lines[0].get_ydata(), values)
    assert (nll.get_ylabel(), kl.get_ylabel()) == ("NLL, nats per example", "KL, nats")


# -- calibration


def forecasts(n: int = 500) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    predictions = {name: (s * torch.randn(n, 3)).softmax(-1) for name, s in (("before", 1), ("after", 3))}
    return predictions, torch.randint(3, (n,))


def test_reliability_shows_the_bins() -> None:
    predictions, y = forecasts()
    ax = bp.plots.reliability(predictions, y, bins=10)
    for points, (name, probs) in zip(ax.collections, predictions.items(), strict=True):
        count, confidence, accuracy = metrics.reliability_bins(probs, y, 10)
        shown = points.get_offsets().data
        np.testing.assert_allclose(shown[:, 0], confidence[count > 0].numpy())
        np.testing.assert_allclose(shown[:, 1], accuracy[count > 0].numpy())
        assert f"{name}: ECE {metrics.expected_calibration_error(probs, y, 10):.3f}" in legend(ax)


def test_class_errors_have_bars_and_intervals() -> None:
    predictions, y = forecasts()
    ax = bp.plots.class_errors(predictions, y, classes=("cat", "dog", "emu"))
    expected = [metrics.class_errors(probs, y) for probs in predictions.values()]
    np.testing.assert_allclose(heights(ax), 100 * torch.cat([e.error for e in expected]).numpy())
    for bars, e in zip(ax.collections, expected, strict=True):
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, 100 * torch.stack([e.low, e.high], 1).numpy(), atol=1e-9)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["cat", "dog", "emu"]
    with pytest.raises(ValueError, match="3 classes"):
        bp.plots.class_errors(predictions, y, classes=("cat",))


# -- uncertainty


def test_entropies_are_shares_and_their_auroc() -> None:
    inside, outside = torch.rand(300) ** 2, torch.rand(120)
    ax = bp.plots.entropies(inside, outside, labels=("a", "b"))
    assert sum(heights(ax)[:40]) == pytest.approx(100) and sum(heights(ax)[40:]) == pytest.approx(100)
    edges = np.append([p.get_x() for p in ax.patches[:40]], ax.patches[39].get_x() + ax.patches[39].get_width())
    expected = 100 * np.histogram(outside.double().numpy(), edges)[0] / 120
    np.testing.assert_allclose(heights(ax)[40:], expected, atol=1)
    assert ax.get_title() == f"AUROC {auroc(inside, outside):.3f}" and legend(ax) == ["a", "b"]


def test_uncertainty_parts_stack_the_means(fitted: Fitted) -> None:
    bnet, loader, _ = fitted
    found = {"train": bp.predict(bnet, loader, draws=5), "far": bp.predict(bnet, [9 * torch.randn(50, 12)], draws=5)}
    ax = bp.plots.uncertainty_parts(found)
    parts = [[float(getattr(p, of).mean()) for p in found.values()] for of in ("epistemic", "aleatoric")]
    assert widths(ax) == pytest.approx(parts[0] + parts[1])
    assert [p.get_x() for p in ax.patches] == pytest.approx([0, 0, *parts[0]])
    assert "nats" in ax.get_xlabel()


def normal_prediction(n: int = 20) -> tuple[torch.Tensor, Prediction]:
    x = torch.randn(n)
    mean, epistemic = torch.sin(x)[:, None], x.square()[:, None]
    return x, Prediction(mean, mean[None], epistemic, torch.full((n, 1), 0.25), mean + 0.1)


def test_bands_are_the_normal_intervals() -> None:
    x, found = normal_prediction()
    ax = bp.plots.predictive_band(x, found, level=0.95)
    order = x.argsort()
    for band, variance in zip(ax.collections[:2], (found.epistemic + 0.25, found.epistemic), strict=True):
        half = 1.959964 * variance.sqrt()
        ends = band.get_paths()[0].vertices[:, 1]
        expected = torch.cat([found.mean - half, found.mean + half])
        assert (ends.min(), ends.max()) == pytest.approx((float(expected.min()), float(expected.max())), rel=1e-5)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), found.mean[order, 0].numpy(), rtol=1e-6)
    np.testing.assert_allclose(ax.collections[2].get_offsets().data[:, 1], found.targets[:, 0].numpy(), rtol=1e-6)
    with pytest.raises(ValueError, match="one input for each of 20"):
        bp.plots.predictive_band(x[:5], found)
    parts = bp.plots.uncertainty_parts({"toy": found})
    assert "variance" in parts.get_xlabel()


def test_a_band_of_classes_is_refused(fitted: Fitted) -> None:
    bnet, loader, _ = fitted
    with pytest.raises(ValueError, match="real targets"):
        bp.plots.predictive_band(torch.zeros(240), bp.predict(bnet, loader, draws=2))


def test_the_cut_that_was_used_is_drawn(fitted: Fitted) -> None:
    bnet, _, _ = fitted
    state = bnet.state()
    masks = bp.masks(bnet, keep=0.4)
    cuts = used_cuts(state, masks)
    kept = torch.cat([state.snr[n][state.grids[n].pool(m.int()) > 0].flatten() for n, m in masks.items()])
    gone = torch.cat([state.snr[n][state.grids[n].pool(m.int()) == 0].flatten() for n, m in masks.items()])
    assert {cut.snr for cut in cuts.values()} == {float(kept.min())} and float(gone.max()) <= float(kept.min())
    axes = bp.plots.snr_histograms(bnet, masks, cut=True)
    for ax in axes:
        (line,) = [line for line in ax.lines if "the cut that was used" in str(line.get_label())]
        assert line.get_xdata()[0] == pytest.approx(math.log10(float(kept.min())))
    assert not any("cut" in str(line.get_label()) for ax in bp.plots.snr_histograms(bnet, masks) for line in ax.lines)


def test_each_layer_has_its_own_cut_where_it_was_cut_alone(fitted: Fitted) -> None:
    bnet, _, _ = fitted
    state, masks = bnet.state(), bp.masks(bnet, keep=0.4, scope="layer")
    cuts = used_cuts(state, masks)
    for name, mask in masks.items():
        assert cuts[name].snr == pytest.approx(float(state.snr[name][state.grids[name].pool(mask.int()) > 0].min()))
    assert len({cut.snr for cut in cuts.values()}) > 1


def test_masks_by_another_ranking_have_no_cut_in_the_ratios(fitted: Fitted) -> None:
    bnet, _, _ = fitted
    torch.manual_seed(0)
    masks = {name: torch.rand(mask.shape) < 0.4 for name, mask in bp.masks(bnet, keep=0.4).items()}
    assert used_cuts(bnet.state(), masks) == {}
    nothing = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    assert used_cuts(bnet.state(), nothing) == {}


# -- latency


def test_latency_bars_are_the_plans(fitted: Fitted) -> None:
    bnet, loader, _ = fitted
    report = bp.report(bnet, bp.masks(bnet, keep=0.4), loader, draws=2)
    ax = bp.plots.layer_latency(report.plan)
    choices = list(report.plan.choices.values())
    assert widths(ax)[:2] == pytest.approx([1e3 * c.seconds["dense"] for c in choices])
    assert widths(ax)[2:] == pytest.approx([1e3 * c.seconds[c.label] for c in choices])
    assert all(c.label in t.get_text() for c, t in zip(choices, ax.texts, strict=True))
    timed = [row for row in report.models if row.seconds]
    ax = bp.plots.model_latency(report.models)
    assert [line.get_xdata()[0] for line in ax.lines] == pytest.approx([1e3 * row.seconds for row in timed])
    assert [t.get_text() for t in ax.get_yticklabels()] == [row.name for row in timed]


def test_nothing_timed_is_nothing_to_show() -> None:
    untimed = Choice("w", (2, 2), 1, bp.Dense(), "", 0, {}, 16, 16)
    with pytest.raises(ValueError, match="timed no layer"):
        bp.plots.layer_latency(bp.Plan({"w": untimed}, "cpu", 1))
    with pytest.raises(ValueError, match="none of the models"):
        bp.plots.model_latency([])


# -- the page that shows them


def test_the_page_shows_every_picture_and_pictures_are_small() -> None:
    page = (DOCS / "pictures.md").read_text()
    shown = re.findall(r"!\[[^\]]+\]\((pictures/\w+\.png)\)", page)
    written = re.findall(r'savefig\("(pictures/\w+\.png)"\)', page)
    assert sorted(shown) == sorted(written) and len(set(shown)) == len(shown)
    assert all((DOCS / name).stat().st_size < 60_000 for name in shown)
    for name in set(bp.plots.__all__) - {"sparsity_curve"}:  # which is curve.plot there
        assert f"bp.plots.{name}(" in page, name
