"""Leave-one-out cross-validation (PSIS-LOO), importance-corrected for a variational posterior."""

import math
import warnings
from typing import Any

import arviz as az
import pyro.distributions as dist
import xarray as xr
from pyro.distributions import Independent, MaskedDistribution
from pyro.poutine import Trace
from scipy.special import logsumexp

from bayesprune.distributions import LogUniform
from bayesprune.distributions.hard_concrete import L0Gate
from bayesprune.distributions.weighted import Weighted
from bayesprune.draws.gaussian import plain

__all__ = ["UnreliableLOOWarning", "khat", "log_density", "loo", "no_correction"]

ARVIZ_0 = az.__version__.startswith("0.")

_NO_DENSITY: dict[type, str] = {
    LogUniform: "a log-uniform prior is improper, so there is no posterior to correct towards",
    L0Gate: "an L0 cost is a price and no density of gates",
    Weighted: "a slab under a spike counts by its inclusion probability, not draw by draw",
}


class UnreliableLOOWarning(UserWarning):
    """q is too far from the posterior, or a point too influential, for importance weights over these draws."""


def no_correction(under_p: Trace) -> str | None:
    """Why log p(w) and log q(w) of a draw have no meaning as a ratio, or ``None`` where they have one."""
    sites = [(name, site["fn"]) for name, site in under_p.nodes.items() if site["type"] == "sample"]
    if not sites:
        return "no weight has a distribution: q is a point"
    for name, fn in sites:
        while isinstance(fn, (Independent, MaskedDistribution)):
            fn = fn.base_dist
        for family, reason in _NO_DENSITY.items():
            if isinstance(fn, family):
                return f"{name!r}: {reason}"
    return None


def log_density(trace: Trace) -> float:
    """log-density of all of a trace's sample sites, nats: entry by entry in their own precision, summed in float64."""
    total = 0.0
    for site in trace.nodes.values():
        if site["type"] == "sample":
            fn: dist.TorchDistribution = site["fn"]
            while isinstance(fn, Independent):
                fn = fn.base_dist
            total += float(fn.log_prob(plain(site["value"])).double().sum())
    return total


def loo(data: Any) -> Any:
    """PSIS-LOO of a variational posterior: importance weights p(w, y)/q(w) on top of leave-one-out's own.

    Args:
        data: what :func:`bayesprune.to_inference_data` made of the training set, all of it.

    Returns:
        ArviZ's ``ELPDData``, pointwise: the expected log pointwise predictive density, nats, its standard error, and a
        Pareto k̂ per example; ``az.compare`` and ``az.plot_khat`` take it.

    Raises:
        ValueError: fewer than 25 draws, or no densities (the reason is repeated from ``data``).

    Warns:
        UnreliableLOOWarning: the Pareto k̂ of the posterior (:func:`khat`) or of an example is above min(1 − 1/log₁₀ S,
            0.7) for S draws. A net of more than some dozens of weights is nearly always told so: the variance of
            log p/q grows with the number of weights. Score held-out data then, which needs no weights.

    Magnusson et al. 2019, *Bayesian Leave-One-Out Cross-Validation for Large Data*, arXiv:1904.10679:
    r_i = p(w) p(y | w) / (q(w) p(y_i | w)), Pareto smoothed (Vehtari et al. 2024, arXiv:1507.02646).
    ``az.loo`` leaves p(w, y)/q(w) out, as if q were the posterior. What is trained without a posterior (biases, a
    learned noise, prior scales) stays at its fitted value: no score here pays for having fitted it.
    """
    log_likelihood, log_ratio, limit = _densities(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said below, with what to do
        if ARVIZ_0:
            result = _loo_arviz_0(log_likelihood, log_ratio, limit)
        else:
            stats = data.sample_stats
            result = az.loo_approximate_posterior(data, log_p=stats["lp"], log_q=stats["log_q"], pointwise=True)
    joint, worst = khat(data), float(result.pareto_k.max())
    if max(joint, worst) > limit:
        blame = "q is too far from the posterior" if joint > limit else "some examples are too influential"
        warnings.warn(
            f"LOO is not reliable here: {blame} for importance weights over {log_ratio.size} draws (Pareto k̂ "
            f"{joint:.2f} for the posterior, up to {worst:.2f} for an example; {limit:.2f} is the limit); score "
            "held-out data",
            UnreliableLOOWarning,
            stacklevel=2,
        )
    return result


def khat(data: Any) -> float:
    """Pareto k̂ of p(w, y)/q(w) over the draws: how far q is from the posterior.

    Yao et al. 2018, *Yes, but Did It Work?: Evaluating Variational Inference*, arXiv:1802.02538.

    Below 0.5 q is close, up to 0.7 usable as a proposal, above it is too far; ∞ where a few draws have all the weight,
    −∞ where all have the same to within 1e-4 nats: q is the posterior.

    Args:
        data: what :func:`bayesprune.to_inference_data` made of the training set, all of it.

    Raises:
        ValueError: as :func:`loo`.
    """
    log_ratio = _densities(data)[1]
    if float(log_ratio.max() - log_ratio.min()) < 1e-4:
        return -math.inf
    return float(_smoothed(log_ratio)[1])


def _densities(data: Any) -> tuple[xr.DataArray, xr.DataArray, float]:
    """log p(y_i | w), log p(w, y) − log q(w), and the k̂ up to which a Pareto-smoothed mean of so many converges."""
    if getattr(data, "log_likelihood", None) is None:
        raise ValueError(
            "the data have no log_likelihood: make them with bp.to_inference_data on a loader with targets"
        )
    stats = getattr(data, "sample_stats", None)
    if stats is None or "log_q" not in stats:
        reason = data.log_likelihood.attrs.get("no_correction", "log q was not recorded")
        raise ValueError(f"LOO cannot be corrected ({reason}): score held-out data")
    log_ratio = stats["lp"] - stats["log_q"]
    if log_ratio.size < 25:
        raise ValueError(f"a Pareto tail needs at least 25 draws, got {log_ratio.size}")
    return data.log_likelihood["y"], log_ratio, min(1 - 1 / math.log10(log_ratio.size), 0.7)


def _smoothed(log_weights: xr.DataArray) -> Any:
    """Pareto-smoothed, normalised log weights over the draws, and k̂."""
    if ARVIZ_0:
        return az.psislw(log_weights.stack(__sample__=("chain", "draw")))
    return (-log_weights).azstats.psislw(dim=["chain", "draw"])


def _loo_arviz_0(log_likelihood: xr.DataArray, log_ratio: xr.DataArray, limit: float) -> Any:
    """What arviz 1 calls ``loo_approximate_posterior``."""
    weights, k = _smoothed((log_ratio - log_likelihood).transpose(*log_likelihood.dims))
    stacked = log_likelihood.stack(__sample__=("chain", "draw"))

    def total(terms: xr.DataArray) -> xr.DataArray:
        return xr.apply_ufunc(logsumexp, terms, input_core_dims=[["__sample__"]], kwargs={"axis": -1})

    n, draws = k.size, log_ratio.size
    elpd_i = total(weights + stacked).rename("loo_i")
    elpd, lppd = float(elpd_i.sum()), float(total(stacked).sum()) - n * math.log(draws)
    return az.ELPDData(
        {
            "elpd_loo": elpd,
            "se": float((n * elpd_i.var()) ** 0.5),
            "p_loo": lppd - elpd,
            "n_samples": draws,
            "n_data_points": n,
            "warning": bool((k > limit).any()),
            "loo_i": elpd_i,
            "pareto_k": k,
            "scale": "log",
            "good_k": limit,
        }
    )
