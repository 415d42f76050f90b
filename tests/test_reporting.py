"""The report's figures are those of the models it names."""

import copy
import json
from html.parser import HTMLParser

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.metrics import error, expected_calibration_error, negative_log_likelihood
from bayesprune.plots import snr_histograms


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


def test_it_prints_shows_and_serialises(found: bp.Report) -> None:
    text = str(found)
    assert "0.weight" in text and "posterior mean, pruned" in text
    HTMLParser().feed(found._repr_html_())
    again = json.loads(json.dumps(found.to_dict()))
    assert again["weights"][0]["kept"] == found.weights[0].kept


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
    assert score.error is None and "RMSE" in str(found)


def test_masks_that_do_not_fit_are_refused(fitted: tuple[bp.BayesianNet, DataLoader]) -> None:
    bnet, loader = fitted
    with pytest.raises(ValueError, match=r"'nope'.*0\.weight"):
        bp.report(bnet, {"nope": torch.ones(3, dtype=torch.bool)}, loader)
    with pytest.raises(ValueError, match=r"\(32, 12\)"):
        bp.report(bnet, {"0.weight": torch.ones(3, dtype=torch.bool)}, loader)
    with pytest.raises(ValueError, match="no batches"):
        bp.report(bnet, bp.masks(bnet, keep=0.4), [])


def test_the_histogram_counts_every_group(fitted: tuple[bp.BayesianNet, DataLoader]) -> None:
    bnet, _ = fitted
    figure = snr_histograms(bnet, bp.masks(bnet, keep=0.4))
    for axes, mask in zip(figure.axes, bp.masks(bnet, keep=0.4).values(), strict=True):
        drawn = sum(patch.get_height() for patch in axes.patches)
        assert drawn == mask.numel()
    with pytest.raises(ValueError, match="axes"):
        snr_histograms(bnet, bp.masks(bnet, keep=0.4), axes=figure.axes[0])
