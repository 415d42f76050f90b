"""ArviZ: the groups hold what the draws say, ArviZ's functions run on them, memory is bounded, LOO is honest.

Runs on arviz 0.2x (``InferenceData``) and on arviz 1 (``DataTree``); the tables say what each generation calls a thing.
"""

import json
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import arviz as az
import matplotlib
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from support.paths import ROOT
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.inspection.entries import chosen

matplotlib.use("agg")

ARVIZ_0 = az.__version__.startswith("0.")
N, CLASSES = 40, ["cat", "dog", "eel"]
TASKS = ("classify", "regress")


def data(task: str) -> TensorDataset:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(N, 4, generator=g)
    score = x @ torch.randn(4, 3, generator=g)
    noise = 0.3 * torch.randn(N, generator=g)
    return TensorDataset(x, score.argmax(-1) if task == "classify" else score[:, 0] + noise)


def loader(task: str, shuffle: bool = False) -> DataLoader[Any]:
    return DataLoader(data(task), batch_size=16, shuffle=shuffle)


def net_for(task: str, method: bp.Method | None = None) -> bp.BayesianNet:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3 if task == "classify" else 1))
    bnet = bp.BayesianNet(net, {"*.weight": method or bp.Gaussian(prior=0.7, init_log_scale=-1.0)})
    bp.classify(bnet, N) if task == "classify" else bp.regress(bnet, N, noise=0.4)
    return bnet


@cache
def fitted(task: str, method: bp.Method) -> tuple[bp.BayesianNet, bp.History]:
    bnet = net_for(task, method)
    model = bp.classify(bnet, N) if task == "classify" else bp.regress(bnet, N)
    return bnet, bp.fit(model, bnet.guide, loader(task), epochs=15, lr=1e-2, seed=0)


@cache
def converted(task: str, method: bp.Method = bp.Gaussian()) -> Any:  # noqa: B008
    bnet, history = fitted(task, method)
    classes = CLASSES if task == "classify" else None
    return bp.to_inference_data(bnet, loader(task), draws=40, history=history, classes=classes, seed=0)


def groups(found: Any) -> set[str]:
    return set(found.groups()) if ARVIZ_0 else set(found.children)


def size(found: Any) -> float:
    """MB of everything that the result holds, but for names."""
    arrays = (v for g in groups(found) for v in getattr(found, g).data_vars.values())
    return sum(v.nbytes for v in arrays if v.dims != ("weight",)) / 1e6


# --- the values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_one_draw_each_and_equal_direct_computation(task: str) -> None:
    bnet, (x, y) = net_for(task), data(task).tensors
    batches = list(loader(task))  # iterating over a loader moves the generator
    found = bp.to_inference_data(bnet, batches, draws=6, seed=3)
    torch.manual_seed(3)
    for i in range(6):
        w = bnet.draw()
        for name in bnet.posteriors:
            assert np.array_equal(found.posterior[name].values[0, i], w[name].numpy())
        output = bnet.run(w, x).detach().double()
        if task == "classify":
            assert np.allclose(found.output["probs"].values[0, i], output.softmax(-1), atol=1e-6)
            truth = output.log_softmax(-1)[torch.arange(N), y].numpy()
        else:
            assert np.allclose(found.output["mean"].values[0, i], output[:, 0], atol=1e-6)
            truth = stats.norm(output[:, 0].numpy(), 0.4).logpdf(y.numpy())
        assert np.allclose(found.log_likelihood["y"].values[0, i], truth, atol=1e-5)
    assert np.array_equal(found.observed_data["y"].values, y.numpy())


@pytest.mark.parametrize("task", TASKS)
def test_the_draws_are_those_of_predict(task: str) -> None:
    bnet = net_for(task)
    found = bp.to_inference_data(bnet, loader(task), draws=5, seed=8).output
    expected = bp.predict(bnet, loader(task), draws=5, seed=8).draws
    name = "probs" if task == "classify" else "mean"
    assert np.allclose(found[name].values[0], expected.squeeze(-1).numpy(), atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_lp_and_log_q_equal_the_densities_written_out(task: str) -> None:
    bnet = net_for(task)
    bnet.prune({"0.weight": torch.arange(20).reshape(5, 4) % 3 > 0})  # what is pruned has no density
    found = bp.to_inference_data(bnet, loader(task), draws=5, seed=0)
    for i in range(5):
        log_p = log_q = 0.0
        for name, p in bnet.posteriors.items():
            w, kept = found.posterior[name].values[0, i], p.kept.numpy()
            log_p += stats.norm(0, 0.7).logpdf(w)[kept].sum()
            log_q += stats.norm(p.loc.detach().numpy(), math.exp(-1.0)).logpdf(w)[kept].sum()  # type: ignore[attr-defined]
        lp = log_p + float(found.log_likelihood["y"].values[0, i].sum())
        assert math.isclose(float(found.sample_stats["lp"].values[0, i]), lp, abs_tol=1e-3)
        assert math.isclose(float(found.sample_stats["log_q"].values[0, i]), log_q, abs_tol=1e-3)


def test_labels_are_drawn_with_the_nets_probabilities() -> None:
    bnet = net_for("classify", bp.Deterministic())
    found = bp.to_inference_data(bnet, loader("classify"), draws=300, seed=0)
    probs = found.output["probs"].values[0, 0]
    for c in range(3):
        share = (found.posterior_predictive["y"].values[0] == c).mean(0)
        assert (np.abs(share - probs[:, c]) < 5 * np.sqrt(probs[:, c] * (1 - probs[:, c]) / 300)).all()


def test_targets_are_drawn_with_the_nets_noise() -> None:
    found = bp.to_inference_data(net_for("regress"), loader("regress"), draws=200, seed=0)
    noise = (found.posterior_predictive["y"].values - found.output["mean"].values).ravel()
    assert abs(noise.mean()) < 5 * 0.4 / math.sqrt(noise.size)
    assert abs(noise.std() / 0.4 - 1) < 5 / math.sqrt(2 * noise.size)


def test_the_prior_is_the_prior() -> None:
    prior = bp.to_inference_data(net_for("classify"), loader("classify"), draws=100, seed=0).prior
    entries = np.concatenate([prior[name].values.ravel() for name in ("0.weight", "2.weight")])
    assert abs(entries.mean()) < 5 * 0.7 / math.sqrt(entries.size)
    assert abs(entries.std() / 0.7 - 1) < 5 / math.sqrt(2 * entries.size)


def test_constant_data_are_mask_snr_pattern_and_method() -> None:
    bnet = net_for("classify", bp.SparseVD(bp.Block(3, 2), init_log_scale=-1.0))
    bnet.prune({"0.weight": torch.tensor([[True, False], [True, False]])})
    found = bp.to_inference_data(bnet, loader("classify"), draws=3)
    constant = found.constant_data
    assert list(constant["weight"].values) == ["0.weight", "2.weight"]
    assert constant["pattern"].values.tolist() == ["Block(h=3, w=2)"] * 2
    assert constant["method"].values[0] == repr(bnet.methods["0.weight"])
    assert constant["kept"].values.tolist() == [0.5, 1.0]
    for name, p in bnet.posteriors.items():
        assert np.array_equal(constant[f"{name}_mask"].values, p.entries().numpy())
        spread = p.pattern.expand(bnet.snr()[name], p.layout)
        assert np.allclose(constant[f"{name}_snr"].values, spread.numpy(), rtol=1e-6)
    assert (found.posterior["0.weight"].values[..., 2:] == 0).all()


def test_masks_are_in_the_draws_the_prior_and_the_output() -> None:
    bnet = net_for("classify")
    masks = {"2.weight": torch.arange(15).reshape(3, 5) % 2 == 0}
    found = bp.to_inference_data(bnet, loader("classify"), draws=4, masks=masks, seed=0)
    dropped = ~masks["2.weight"].numpy()
    for group in (found.posterior, found.prior):
        assert (group["2.weight"].values[..., dropped] == 0).all() and (
            group["2.weight"].values[..., ~dropped] != 0
        ).all()
    expected = bp.predict(bnet, loader("classify"), draws=4, masks=masks, seed=0).draws
    assert np.allclose(found.output["probs"].values[0], expected, atol=1e-6)
    assert np.array_equal(found.constant_data["2.weight_mask"].values, ~dropped)
    assert (found.constant_data["2.weight_snr"].values[dropped] == 0).all()
    assert "sample_stats" not in groups(found)
    with pytest.raises(ValueError, match="masks= changed the model"):
        bp.loo(found)


def test_the_fit_is_the_history() -> None:
    _, history = fitted("classify", bp.Gaussian())
    fit = converted("classify").fit
    assert fit["nll"].values.tolist() == history.nll
    assert fit["kl"].values.tolist() == history.kl
    assert fit["kept"].values.tolist() == history.kept
    assert fit["epoch"].values.tolist() == list(range(1, 16))


def test_nothing_else_changes() -> None:
    bnet = net_for("classify").train()
    before = {n: v.clone() for n, v in bnet.state_dict().items()}
    state = torch.random.get_rng_state()
    a, b = (bp.to_inference_data(bnet, loader("classify"), draws=3, seed=5) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert bnet.training and all(torch.equal(v, before[n]) for n, v in bnet.state_dict().items())
    for group in ("posterior", "prior", "posterior_predictive", "log_likelihood"):
        assert getattr(a, group)[next(iter(getattr(a, group).data_vars))].equals(
            getattr(b, group)[next(iter(getattr(b, group).data_vars))]
        )


# --- names ------------------------------------------------------------------------------------------------------------


def test_axes_and_classes_have_names() -> None:
    found = converted("classify")
    assert groups(found) == {
        *("posterior", "prior", "posterior_predictive", "output", "log_likelihood", "sample_stats", "observed_data"),
        *("constant_data", "fit"),
    }
    assert found.posterior["0.weight"].dims == ("chain", "draw", "0.weight_out", "0.weight_in")
    assert found.posterior["0.weight"].shape == (1, 40, 5, 4)
    assert found.output["probs"].dims == ("chain", "draw", "example", "class")
    assert found.output["class"].values.tolist() == CLASSES
    assert found.observed_data["y"].dims == ("example",)
    assert found.log_likelihood["y"].dims == ("chain", "draw", "example")
    assert "variational" in found.posterior.attrs["sampling"]
    assert "bayesprune.loo" in found.log_likelihood.attrs["leave_one_out"]


def test_convolutions_and_vectors_have_their_roles() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ConvTranspose1d(3, 2, 5), nn.Linear(3, 1))
    bnet = bp.BayesianNet(net, {"0.*": bp.Gaussian(), "1.weight": bp.Gaussian()})
    entries = {e.name: e for e in chosen(bnet, None)}
    assert entries["0.weight"].axes == ("0.weight_out", "0.weight_in", "0.weight_kernel_0", "0.weight_kernel_1")
    assert entries["0.bias"].axes == ("0.bias_out",)
    assert entries["1.weight"].axes == ("1.weight_in", "1.weight_out", "1.weight_kernel")
    value = torch.randn(3, 2, 5)
    assert np.allclose(entries["1.weight"].rms(value), value.square().mean((0, 2)).sqrt(), rtol=1e-6)
    assert entries["1.weight"].coords["1.weight_kernel"].tolist() == [0, 1, 2, 3, 4]


def test_labels_and_targets_with_more_axes() -> None:
    tokens = bp.BayesianNet(nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3)), {"1.weight": bp.Gaussian()})
    bp.classify(tokens, 6)
    x, y = torch.arange(30).reshape(6, 5) % 7, torch.arange(30).reshape(6, 5) % 3
    found = bp.to_inference_data(tokens, [(x, y)], draws=3)
    assert found.output["probs"].dims == ("chain", "draw", "example", "y_dim_0", "class")
    assert found.posterior_predictive["y"].shape == (1, 3, 6, 5)
    assert found.log_likelihood["y"].shape == (1, 3, 6)
    several = bp.BayesianNet(nn.Sequential(nn.Linear(4, 2)), {"0.weight": bp.Gaussian()})
    bp.regress(several, N)
    found = bp.to_inference_data(several, [(torch.ones(6, 4), torch.ones(6, 2))], draws=3)
    assert found.observed_data["y"].dims == ("example", "target")


def test_without_targets_there_is_no_likelihood() -> None:
    found = bp.to_inference_data(net_for("classify"), [data("classify").tensors[0]], draws=3)
    assert groups(found) == {"posterior", "prior", "posterior_predictive", "output", "constant_data"}
    with pytest.raises(ValueError, match="log_likelihood"):
        bp.loo(found)


# --- a subset, and the bound ------------------------------------------------------------------------------------------


def test_globs_slices_and_masks_choose_entries() -> None:
    bnet = net_for("classify")
    whole = bp.to_inference_data(bnet, loader("classify"), draws=4, seed=0).posterior
    only = bp.to_inference_data(bnet, loader("classify"), draws=4, seed=0, weights=["2.*"]).posterior
    assert list(only.data_vars) == ["2.weight"] and np.array_equal(only["2.weight"], whole["2.weight"])
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[1, 2] = mask[2, 4] = True
    some = bp.to_inference_data(
        bnet, loader("classify"), draws=4, seed=0, weights={"0.weight": np.s_[1:, ::2], "2.weight": mask}
    )
    assert np.array_equal(some.posterior["0.weight"], whole["0.weight"].values[:, :, 1:, ::2])
    assert some.posterior["0.weight_in"].values.tolist() == [0, 2]
    assert some.constant_data["0.weight_snr"].shape == (4, 2)
    assert np.array_equal(some.posterior["2.weight"], whole["2.weight"].values[:, :, [1, 2], [2, 4]])
    assert some.posterior["2.weight"].dims == ("chain", "draw", "2.weight_entry")
    assert some.posterior["2.weight_out"].values.tolist() == [1, 2]
    assert "left_out" not in some.attrs  # by choice


def test_the_bound_holds_and_says_what_it_left_out() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 3))
    bnet = bp.BayesianNet(net, {"*.weight": bp.Gaussian(init_log_scale=-2.0)})
    bp.classify(bnet, N)
    with pytest.warns(bp.LeftOutWarning, match=r"draws of '2.weight' \(16 MB\), '2.weight_rms' per output"):
        found = bp.to_inference_data(bnet, list(loader("classify")), draws=50, memory_mb=2, seed=0)
    assert size(found) <= 2
    assert "'2.weight_rms'" in found.posterior.attrs["left_out"] == found.attrs["left_out"]
    assert set(found.posterior.data_vars) == {"0.weight", "2.weight_rms", "4.weight"}
    assert {"0.weight_snr", "2.weight_snr"} <= set(found.constant_data.data_vars)
    torch.manual_seed(0)
    rms = bnet.draw()["2.weight"].square().mean(1).sqrt()
    assert np.allclose(found.posterior["2.weight_rms"].values[0, 0], rms, rtol=1e-5)
    whole = bp.to_inference_data(bnet, loader("classify"), draws=50, memory_mb=25)
    assert 16 < size(whole) <= 25 and "left_out" not in whole.attrs
    with pytest.warns(bp.LeftOutWarning, match="output"):
        tiny = bp.to_inference_data(bnet, loader("classify"), draws=50, memory_mb=0.034)
    assert size(tiny) <= 0.034 and not tiny.log_likelihood["y"].isnull().any()
    with pytest.raises(ValueError, match="does not hold the predictive"):
        bp.to_inference_data(bnet, loader("classify"), draws=50, memory_mb=0.03)


PEAK = """
import json, warnings
import torch, bayesprune as bp, arviz
from torch import nn
warnings.simplefilter("ignore")
torch.set_num_threads(1)
bnet = bp.BayesianNet(nn.Sequential(nn.Linear(1000, 1000), nn.Linear(1000, 1)), {"*.weight": bp.Gaussian(prior=1.0)})
bp.regress(bnet, 4)
def peak(memory_mb, **how):
    bp.to_inference_data(bnet, [(torch.ones(4, 1000), torch.ones(4, 1))], memory_mb=memory_mb, **how)
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1e3
print(json.dumps([peak(20, draws=2, weights=["1.*"]), peak(20, draws=40), peak(1000, draws=40)]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_the_peak_stays_within_the_bound_and_one_draw() -> None:
    """40 draws of a million weights and as many of the prior are 320 MB."""
    root = ROOT
    run = subprocess.run(
        [sys.executable, "-c", PEAK], cwd=root, capture_output=True, text=True, check=True, timeout=120
    )
    before, bounded, whole = json.loads(run.stdout)
    assert bounded - before < 20 + 8 * 4  # and some copies of the weight, 4 MB each, while draws and ratios are made
    assert whole - before > 280  # the measure sees what is there


# --- ArviZ's functions ------------------------------------------------------------------------------------------------

TO_RUN: dict[str, Callable[[Any], Any]] = {
    "summary": lambda d: az.summary(d, var_names=["2.weight"]),
    "plot_forest": lambda d: az.plot_forest(d, var_names=["2.weight"]),
    "plot_posterior": lambda d: (az.plot_posterior if ARVIZ_0 else az.plot_dist)(d, var_names=["2.weight"]),
    "plot_ppc": lambda d: (az.plot_ppc if ARVIZ_0 else az.plot_ppc_dist)(d),
    "plot_loo_pit": lambda d: az.plot_loo_pit(d, **({"y": "y"} if ARVIZ_0 else {})),
    "loo": lambda d: az.loo(d),
    "plot_khat": lambda d: az.plot_khat(az.loo(d, pointwise=True)),
    **({"waic": lambda d: az.waic(d)} if ARVIZ_0 else {}),  # gone in arviz 1
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("function", "task"),
    [pair for pair in product(TO_RUN, TASKS) if pair != ("plot_loo_pit", "classify")],  # which is of real targets
)
def test_arvizs_functions_run(function: str, task: str) -> None:
    import matplotlib.pyplot as plt

    assert TO_RUN[function](converted(task)) is not None
    plt.close("all")


def test_summary_is_that_of_the_draws() -> None:
    found = converted("regress")
    table = az.summary(found, var_names=["2.weight"], kind="stats", round_to="none")
    assert np.allclose(table["mean"], found.posterior["2.weight"].values[0].mean(0).ravel(), rtol=1e-5)
    assert "2.weight[0, 3]" in table.index


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", TASKS)
def test_compare_ranks_two_methods_on_one_data_set(task: str) -> None:
    found = {"gaussian": converted(task), "horseshoe": converted(task, bp.Horseshoe())}
    assert set(az.compare(found).index) == set(found)
    corrected = {name: bp.loo(d) for name, d in found.items()}
    assert set(az.compare(corrected).index) == set(found)


@pytest.mark.parametrize("task", TASKS)
def test_netcdf_keeps_everything(task: str, tmp_path: Path) -> None:
    found = converted(task)
    found.to_netcdf(str(tmp_path / "draws.nc"))
    back = az.from_netcdf(str(tmp_path / "draws.nc"))
    assert groups(back) == groups(found)
    for group in groups(found):
        a, b = getattr(found, group), getattr(back, group)
        assert (a if ARVIZ_0 else a.to_dataset()).identical(b if ARVIZ_0 else b.to_dataset()), group
    assert back.attrs["inference_library"] == "bayesprune"
    back.close()


# --- leave-one-out ----------------------------------------------------------------------------------------------------


@cache
def linear(widen: float) -> tuple[Any, np.ndarray]:
    """y = Xw + 0.5 ε with two weights, w ~ N(0, 1), q ``widen`` times the best mean field's width; and exact LOO."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(12, 2, generator=g)
    y = x @ torch.tensor([0.7, -0.4]) + 0.5 * torch.randn(12, generator=g)

    def posterior(rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
        a, b = x[rows].double().numpy(), y[rows].double().numpy()
        precision = np.eye(2) + a.T @ a / 0.25
        return np.linalg.solve(precision, a.T @ b / 0.25), precision

    def score(i: int) -> float:
        mean, precision = posterior(torch.arange(12) != i)
        row = x[i].double().numpy()
        return float(
            stats.norm(row @ mean, math.sqrt(0.25 + row @ np.linalg.solve(precision, row))).logpdf(float(y[i]))
        )

    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(2, 1, bias=False)), {"0.weight": bp.Gaussian(prior=1.0)})
    bp.regress(bnet, 12, noise=0.5)
    mean, precision = posterior(torch.arange(12))
    q = bnet.posteriors["0.weight"]
    q.get_parameter("loc").data = torch.tensor(mean)[None].float()
    q.get_parameter("log_scale").data = torch.tensor(np.log(widen / np.sqrt(precision.diagonal())))[None].float()
    return bp.to_inference_data(bnet, [(x, y)], draws=600, seed=0), np.array([score(i) for i in range(12)])


def pointwise(result: Any) -> np.ndarray:
    return np.asarray(result.loo_i if ARVIZ_0 else result.elpd_i)


def test_corrected_loo_equals_the_closed_form_where_plain_loo_does_not() -> None:
    found, exact = linear(1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", bp.UnreliableLOOWarning)
        corrected = bp.loo(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = az.loo(found, pointwise=True)
    assert np.abs(pointwise(corrected) - exact).max() < 0.03
    assert np.abs(pointwise(plain) - exact).max() > 0.1
    total = corrected["elpd_loo"] if ARVIZ_0 else corrected.elpd
    assert math.isclose(float(total), float(pointwise(corrected).sum()), rel_tol=1e-6)
    assert bp.khat(found) < 0.5


def test_corrected_loo_is_the_self_normalised_mean_where_the_tail_is_light() -> None:
    found, _ = linear(1.5)
    log_likelihood = found.log_likelihood["y"].values[0]
    weights = (found.sample_stats["lp"] - found.sample_stats["log_q"]).values[0, :, None] - log_likelihood
    direct = logsumexp(weights + log_likelihood, axis=0) - logsumexp(weights, axis=0)
    assert np.allclose(pointwise(bp.loo(found)), direct, atol=0.01)


def test_a_posterior_that_is_exact_has_no_tail() -> None:
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(1, 1, bias=False)), {"0.weight": bp.Gaussian(prior=1.0)})
    bp.regress(bnet, 3, noise=1.0)
    x, y = torch.tensor([[1.0], [2.0], [-1.0]]), torch.tensor([1.0, 2.5, 0.0])
    q, precision = bnet.posteriors["0.weight"], 7.0
    q.get_parameter("loc").data.fill_(6.0 / precision)
    q.get_parameter("log_scale").data.fill_(-0.5 * math.log(precision))
    assert bp.khat(bp.to_inference_data(bnet, [(x, y)], draws=30)) == -math.inf


def test_a_posterior_that_is_far_too_narrow_is_told_so() -> None:
    found, _ = linear(0.2)
    assert bp.khat(found) > 0.7
    with pytest.warns(bp.UnreliableLOOWarning, match="q is too far from the posterior.*held-out"):
        bp.loo(found)


def test_many_weights_are_told_so() -> None:
    """The variance of log p/q grows with the number of weights: importance weights collapse."""
    torch.manual_seed(0)
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(300, 3)), {"0.weight": bp.Gaussian(init_log_scale=-2.0)})
    bp.classify(bnet, 30)
    batch = [(torch.randn(30, 300), torch.arange(30) % 3)]
    found = bp.to_inference_data(bnet, batch, draws=100, seed=0)
    assert bp.khat(found) > 0.7
    with pytest.warns(bp.UnreliableLOOWarning, match="q is too far"):
        bp.loo(found)


WHY = {
    "SparseVD": (bp.SparseVD(), "improper"),
    "GroupVD": (bp.GroupVD(), "improper"),
    "NormalJeffreys": (bp.NormalJeffreys(), "improper"),
    "HardConcrete": (bp.HardConcrete(), "no density"),
    "SpikeSlab": (bp.SpikeSlab(), "inclusion probability"),
    "Deterministic": (bp.Deterministic(), "q is a point"),
}


@pytest.mark.parametrize("method", WHY)
def test_where_there_is_no_ratio_the_reason_is_given(method: str) -> None:
    found = bp.to_inference_data(net_for("classify", WHY[method][0]), loader("classify"), draws=30)
    assert WHY[method][1] in found.log_likelihood.attrs["no_correction"]
    assert "sample_stats" not in groups(found)
    for function in (bp.loo, bp.khat):
        with pytest.raises(ValueError, match=f"{WHY[method][1]}.*held-out"):
            function(found)


@pytest.mark.parametrize("method", [bp.ARD(), bp.Laplace(), bp.Horseshoe(), bp.StructuredDropout()], ids=repr)
def test_where_there_is_a_ratio_its_mean_is_minus_the_kl(method: bp.Method) -> None:
    """E_q[log p(w) − log q(w)] = −KL, and the KL has a closed form."""
    bnet = net_for("classify", method)
    found = bp.to_inference_data(bnet, loader("classify"), draws=200, seed=0)
    lp, log_q = (found.sample_stats[name].values[0] for name in ("lp", "log_q"))
    ratio = lp - found.log_likelihood["y"].values[0].sum(-1) - log_q
    _, under_q, under_p = bnet.eval().traced_draw()
    names = [name for name, site in under_q.nodes.items() if site["type"] == "sample"]
    kl = sum(torch.distributions.kl_divergence(under_q.nodes[n]["fn"], under_p.nodes[n]["fn"]) for n in names)
    assert abs(ratio.mean() + float(kl.detach())) < 5 * ratio.std() / math.sqrt(ratio.size)


def test_too_few_draws_for_a_tail() -> None:
    with pytest.raises(ValueError, match="at least 25 draws, got 3"):
        bp.loo(bp.to_inference_data(net_for("classify"), loader("classify"), draws=3))


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_at_the_door() -> None:
    bnet, batches = net_for("classify"), loader("classify")
    silent = bp.BayesianNet(nn.Sequential(nn.Linear(4, 3)), {"0.weight": bp.Gaussian()})
    with pytest.raises(ValueError, match=r"bp\.classify or bp\.regress"):
        bp.to_inference_data(silent, batches)
    refused: list[tuple[str, dict[str, Any]]] = [
        ("draws is an integer ≥ 1, got 0", {"draws": 0}),
        ("above 0, got 0", {"memory_mb": 0.0}),
        ("above 0, got nan", {"memory_mb": math.nan}),
        ("'fc.weight', which matches no weight", {"weights": ["fc.weight"]}),
        ("steps ≥ 1", {"weights": {"0.weight": np.s_[::-1]}}),
        ("steps ≥ 1", {"weights": {"0.weight": np.s_[:, :, :]}}),
        ("steps ≥ 1", {"weights": {"0.weight": 3}}),
        (
            r"bool tensor of its shape \(5, 4\); got torch.bool of shape \(4, 5\)",
            {"weights": {"0.*": torch.ones(4, 5) > 0}},
        ),
        ("masks name 'nope'", {"masks": {"nope": torch.ones(1) > 0}}),
        ("each of the net's 3 classes once", {"classes": ["a", "b"]}),
        ("each of the net's 3 classes once", {"classes": ["a", "b", "b"]}),
    ]
    for message, arguments in refused:
        with pytest.raises(ValueError, match=message):
            bp.to_inference_data(bnet, batches, **{"draws": 2, **arguments})
    with pytest.raises(ValueError, match="targets are real"):
        bp.to_inference_data(net_for("regress"), loader("regress"), draws=2, classes=["a"])


def test_bad_loaders_are_refused() -> None:
    bnet = net_for("classify")
    with pytest.raises(ValueError, match="no batches"):
        bp.to_inference_data(bnet, [], draws=2)
    exhausted = iter(loader("classify"))
    assert bp.to_inference_data(bnet, exhausted, draws=2).observed_data["y"].size == N  # an iterator is read once
    with pytest.raises(ValueError, match="no batches"):
        bp.to_inference_data(bnet, exhausted, draws=2)
    with pytest.raises(ValueError, match="shuffle=False"):
        bp.to_inference_data(bnet, loader("classify", shuffle=True), draws=2)
    with pytest.raises(ValueError, match="labels must lie in"):
        bp.to_inference_data(bnet, [(torch.ones(2, 4), torch.tensor([0, 3]))], draws=2)


# --- the docs ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_the_page_on_inspecting_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "inspect.md"
    monkeypatch.chdir(tmp_path)
    world: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(code, world)
    table = page.read_text().partition("| group |")[2].partition("\n\n")[0]
    assert set(groups(world["found"])) == set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert world["error"] < 0.2
    assert (tmp_path / "draws.nc").exists()
