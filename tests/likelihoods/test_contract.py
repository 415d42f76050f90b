"""What every kind of input keeps: the fit's loss is torch's own, and every door takes it from there."""

import math
import warnings
from functools import cache
from typing import Any

import pytest
import torch
from support.likelihoods import KINDS, Kind, N
from torch.utils._pytree import tree_leaves

import bayesprune as bp
from bayesprune.fitting.batches import split
from bayesprune.fitting.elbo import MeanFieldELBO
from bayesprune.likelihoods.batch import call

every_kind = pytest.mark.parametrize("name", KINDS)


def made(kind: Kind, log_scale: float = -3.0) -> tuple[bp.BayesianNet, Any]:
    torch.manual_seed(0)
    bnet = bp.BayesianNet(kind.net(), {"*.weight" if "." in _first(kind) else "weight": _gaussian(log_scale)})
    return bnet, bp.supervise(bnet, N, kind.likelihood())


def _first(kind: Kind) -> str:
    return next(name for name, _ in kind.net().named_parameters())


def _gaussian(log_scale: float) -> bp.Method:
    return bp.Gaussian(init_log_scale=log_scale, prior=1.0)


@cache
def fitted(name: str) -> tuple[bp.BayesianNet, bp.History]:
    kind = KINDS[name]
    bnet, model = made(kind)
    history = bp.fit(model, bnet.guide, kind.batches, epochs=30, lr=0.02, seed=0, warmup=3000, progress=False)
    return bnet, history


def whole(kind: Kind) -> Any:
    """All inputs in one batch."""
    bnet = made(kind)[0]
    parts = [split(bnet, batch)[0] for batch in kind.batches]
    first = parts[0]
    if isinstance(first, dict):
        return {key: torch.cat([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return torch.cat(parts)


@every_kind
def test_what_is_fitted_is_torchs_own_loss_scaled_to_the_data_set(name: str) -> None:
    """Examples are what is counted: a batch of n stands for N of them, however many labels they have."""
    kind = KINDS[name]
    bnet, model = made(kind, log_scale=-10.0)
    bnet.eval()
    total = 0.0
    for batch in kind.batches:
        x, y = split(bnet, batch)
        elbo = MeanFieldELBO()
        elbo.loss(model, bnet.guide, x, y)
        total += elbo.nll.item() * len(tree_leaves(x)[0]) / N
    with torch.no_grad():
        truth = kind.torchs(call(bnet.net, whole(kind))).item()
    assert total == pytest.approx(truth, rel=1e-4, abs=1e-3)


@every_kind
def test_it_is_learned(name: str) -> None:
    history = fitted(name)[1]
    assert history.nll[-1] < history.nll[0] - 0.01 * abs(history.nll[0])


@every_kind
def test_a_prediction_is_the_mean_over_draws(name: str) -> None:
    kind, (bnet, _) = KINDS[name], fitted(name)
    found = bp.predict(bnet, kind.batches, draws=3, seed=0)
    parts = getattr(found, "parts", {"": found}) if name.startswith("several outputs") else {"": found}
    for part in parts.values():
        assert part.draws.shape == (3, *part.mean.shape) and len(part.mean) == N
        torch.testing.assert_close(part.mean, part.draws.mean(0))
        assert bool((part.epistemic >= 0).all())
        unknown = bnet.observation.draws_targets is False
        assert bool(part.aleatoric.isnan().all() if unknown else (part.aleatoric > 0).all())


@every_kind
def test_a_report_judges_by_the_figure_of_its_kind(name: str) -> None:
    kind, (bnet, _) = KINDS[name], fitted(name)
    masks = bp.masks(bnet, keep=0.6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = bp.report(bnet, masks, kind.batches, draws=2, seed=0)
    figures = {"error": found.verdict.error, "rmse": found.verdict.rmse}
    assert [figure for figure, change in figures.items() if change is not None] == [kind.figure] * (
        kind.figure != "nll"
    )
    assert {row.score.n for row in found.models} == {kind.observations}
    assert all(math.isfinite(row.score.nll) for row in found.models)
    plain = found.to_dict()
    assert plain["verdict"]["nll"]["after"] == pytest.approx(found.models[1].score.nll)
    assert str(found) and "NLL" in found._repr_html_()


@every_kind
def test_a_sweep_scores_every_budget(name: str) -> None:
    kind, (bnet, _) = KINDS[name], fitted(name)
    curve = bp.sweep(bnet, kind.batches, keep=[0.9, 0.2], saliencies=[bp.snr])
    frame = curve.to_frame()
    assert len(frame) == 3 and frame["nll"].notna().all()
    assert (kind.figure in frame) and str(curve)
    assert curve.plot().get_ylabel()


@every_kind
def test_arviz_has_what_the_kind_can_say(name: str, tmp_path: Any) -> None:
    kind, (bnet, _) = KINDS[name], fitted(name)
    data = bp.to_inference_data(bnet, kind.batches, draws=4, seed=0)
    groups = {"posterior", "prior", "posterior_predictive", "output", "log_likelihood", "observed_data", "sample_stats"}
    there = {group for group in groups if hasattr(data, group) and getattr(data, group, None) is not None}
    assert there == groups - kind.lacks
    assert data.log_likelihood["y"].shape == (1, 4, N)
    if "sample_stats" in kind.lacks:
        assert data.log_likelihood.attrs["no_correction"]
    if "posterior_predictive" in there:
        drawn, seen = data.posterior_predictive, data.observed_data
        assert set(drawn.data_vars) == set(seen.data_vars)
        assert all(bool(array.notnull().all()) for array in drawn.data_vars.values())
    data.to_netcdf(str(tmp_path / "draws.nc"))


@every_kind
def test_a_log_likelihood_is_an_examples_own(name: str) -> None:
    """The first example of the batches alone has the log-likelihood that it has among the others."""
    kind, (bnet, _) = KINDS[name], fitted(name)
    together = bp.to_inference_data(bnet, kind.batches, draws=2, seed=0).log_likelihood["y"].values
    torch.manual_seed(0)
    outputs = bp.to_inference_data(bnet, kind.batches[:1], draws=2, seed=0).log_likelihood["y"].values
    assert outputs == pytest.approx(together[:, :, : outputs.shape[2]], rel=1e-4, abs=1e-4)
