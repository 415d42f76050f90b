"""How near do the fitted posteriors come to the exact ones? A linear regression on which those can be had.

    OMP_NUM_THREADS=1 python examples/benchmarks/gold_standard.py

16 inputs, of which 4 carry weights of size 0.5 to 1.5 and random sign; 100 examples; the weights' norm is three times
the noise, and the noise is known. Once with independent inputs, once with neighbours correlated by 0.9. Each method is
fitted with an explicit prior, the whole data set a batch, and compared with

- the gold standard: the closed form; the sum over all 2^16 models; or NUTS, Pyro's own, four chains;
- the best mean-field posterior: the ELBO written down in closed form or quadrature and maximised in float64, from the
  fit and from random starts. What lies between it and the fit is the method's or the optimiser's fault; what lies
  between it and the gold standard is the family's.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from rich.console import Console
from rich.table import Table
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

import bayesprune as bp

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # ArviZ announces its next version
    import arviz as az

PATTERN = bp.Channel(1)
DRAWS = 4000  # of each law that is not itself a sample
Q = dict[str, Tensor]  # a mean-field posterior: the names and values of its parameters


# --- the problem ---------------------------------------------------------------------------------------------------


class Regression(NamedTuple):
    x: Tensor
    y: Tensor
    weight: Tensor
    noise: float

    @property
    def precision(self) -> Tensor:
        return self.x.T @ self.x / self.noise**2

    @property
    def pull(self) -> Tensor:
        return self.x.T @ self.y / self.noise**2


def regression(seed: int, correlation: float = 0.0, size: int = 100, inputs: int = 16, relevant: int = 4) -> Regression:
    generator = torch.Generator().manual_seed(seed)
    magnitude = 0.5 + torch.rand(relevant, generator=generator)
    sign = torch.randint(0, 2, (relevant,), generator=generator) * 2 - 1
    weight = torch.zeros(inputs)
    weight[torch.randperm(inputs, generator=generator)[:relevant]] = magnitude * sign
    x = torch.randn(size, inputs, generator=generator)
    for i in range(1, inputs):
        x[:, i] = correlation * x[:, i - 1] + math.sqrt(1 - correlation**2) * x[:, i]
    noise = float(weight.norm()) / 3
    y = x @ weight + noise * torch.randn(size, generator=generator)
    return Regression(x.double(), y.double(), weight.double(), noise)


# --- gold standards ------------------------------------------------------------------------------------------------


class Law(NamedTuple):
    """A posterior of the weights: its means, standard deviations and draws, and what else is known of it."""

    mean: Tensor
    sd: Tensor
    draws: Tensor
    inclusion: Tensor | None = None
    log_scales: Tensor | None = None  # draws of log τ and, after it, each log λ
    quality: str = "exact"


def normal_draws(mean: Tensor, factor: Tensor) -> Tensor:
    """Draws of mean + factor · N(0, I), where the factor is a matrix or one for each draw."""
    noise = torch.randn(DRAWS, mean.shape[-1], 1, generator=torch.Generator().manual_seed(0), dtype=mean.dtype)
    return mean + (factor @ noise)[..., 0]


def conjugate(data: Regression, scales: Tensor) -> Law:
    """The posterior under w_i ~ N(0, scales_i²); a scale may be 0."""
    mean, cov = given_scales(data, scales[None])
    factor = torch.linalg.cholesky(cov[0] + 1e-14 * torch.eye(len(scales), dtype=cov.dtype))
    return Law(mean[0], cov[0].diagonal().sqrt(), normal_draws(mean[0], factor))


def given_scales(data: Regression, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Means and covariances for each row of prior scales, by w = scales · u with u ~ N(0, I)."""
    factor, half = whitened(data, scales)
    cov = scales[:, :, None] * torch.cholesky_inverse(factor) * scales[:, None, :]
    return scales * torch.linalg.solve_triangular(factor.mT, half, upper=True)[..., 0], cov


def whitened(data: Regression, scales: Tensor) -> tuple[Tensor, Tensor]:
    """L with L Lᵀ = I + S P S, the posterior precision of u, and L⁻¹ S b: what evidence and moments are made of."""
    eye = torch.eye(scales.shape[-1], dtype=scales.dtype)
    factor = torch.linalg.cholesky(scales[..., :, None] * data.precision * scales[..., None, :] + eye)
    return factor, torch.linalg.solve_triangular(factor, (scales * data.pull)[..., None], upper=False)


def log_evidence(data: Regression, scales: Tensor) -> Tensor:
    """log p(y | scales), less a constant."""
    factor, half = whitened(data, scales)
    return 0.5 * half.square().sum((-2, -1)) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def enumerated(data: Regression, wide: float, narrow: float, fraction: float) -> Law:
    """The exact posterior where each weight is N(0, wide²) with probability ``fraction``, else N(0, narrow²) or 0."""
    inputs = data.x.shape[1]
    models = (torch.arange(2**inputs)[:, None] >> torch.arange(inputs)) & 1
    scales = torch.where(models == 1, wide, narrow).double()
    size = models.sum(1)
    prior = size * math.log(fraction) + (inputs - size) * math.log1p(-fraction)
    parts = scales.split(4096)
    share = (torch.cat([log_evidence(data, part) for part in parts]) + prior).softmax(0)
    first, second = torch.zeros(inputs).double(), torch.zeros(inputs).double()
    for part, weight in zip(parts, share.split(4096), strict=True):
        mean, cov = given_scales(data, part)
        first += weight @ mean
        second += weight @ (mean.square() + cov.diagonal(dim1=-2, dim2=-1))
    generator = torch.Generator().manual_seed(0)
    draws = conditional_draws(data, scales[share.multinomial(DRAWS, replacement=True, generator=generator)], generator)
    return Law(first, (second - first.square()).sqrt(), draws, inclusion=share @ models.double())


def conditional_draws(data: Regression, scales: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One exact draw of the weights for each row of prior scales."""
    factor, half = whitened(data, scales)
    noise = torch.randn(half.shape, generator=generator, dtype=half.dtype)
    return scales * torch.linalg.solve_triangular(factor.mT, half + noise, upper=True)[..., 0]


def best_evidence(data: Regression, steps: int = 20_000) -> Law:
    """Sparse Bayesian learning: the prior variances that maximise the evidence (Tipping 2001, eq. 16-17)."""
    var = torch.ones(data.x.shape[1], dtype=torch.float64)
    for _ in range(steps):
        mean, cov = given_scales(data, var.sqrt()[None])
        known = (1 - cov[0].diagonal() / var).clamp_min(1e-12)
        var = (mean[0].square() / known).clamp_min(1e-12)
    return conjugate(data, torch.where(var > 1e-10, var, 0.0).sqrt())


def sampled(
    program: Callable[[], None], of: Callable[[Q], tuple[Tensor, Tensor | None]], chains: int, samples: int
) -> Law:
    """NUTS on a Pyro program; ``of`` takes its sites to draws of the weights and of the log scales."""
    runs, divergences = [], 0
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about constants
        for chain in range(chains):
            torch.manual_seed(chain)
            kernel = NUTS(program, jit_compile=True, ignore_jit_warnings=True, target_accept_prob=0.95)
            mcmc = MCMC(kernel, num_samples=samples, warmup_steps=max(samples // 2, 200), disable_progbar=True)
            mcmc.run()
            runs.append(of(mcmc.get_samples()))
            divergences += len(mcmc.diagnostics()["divergences"]["chain 0"])
    draws = torch.stack([weights for weights, _ in runs])
    both = torch.cat([draws, *([torch.stack([s for _, s in runs])] if runs[0][1] is not None else [])], -1)
    found = az.convert_to_dataset({"w": both.numpy()})
    rhat, ess = float(az.rhat(found)["w"].max()), float(az.ess(found)["w"].min())
    flat = draws.flatten(0, 1)
    scales = both.flatten(0, 1)[:, draws.shape[-1] :]
    quality = f"{chains} × {samples}, r̂ ≤ {rhat:.3f}, ESS ≥ {ess:.0f}, {divergences} divergences"
    return Law(flat.mean(0), flat.std(0), flat, None, scales if scales.shape[1] else None, quality)


def lasso(data: Regression, b: float, chains: int, samples: int) -> Law:
    precision, pull, zero = data.precision, data.pull, torch.zeros(data.x.shape[1], dtype=torch.float64)

    def program() -> None:
        w = pyro.sample("w", dist.Laplace(zero, zero + b).to_event(1))
        pyro.factor("y", pull @ w - 0.5 * w @ precision @ w)

    return sampled(program, lambda sites: (sites["w"], None), chains, samples)


def half_cauchy(z: Tensor) -> Tensor:
    """z ~ N(0, 1) to C⁺(0, 1), quantile to quantile: NUTS need not walk out into the tail."""
    return (math.pi / 4 * torch.erfc(-z / math.sqrt(2))).tan()


def regularised(scale: Tensor, slab: float) -> Tensor:
    return scale / (1 + (scale / slab).square()).sqrt()


def horseshoe(
    data: Regression, global_scale: float, slab: float, chains: int, samples: int, collapsed: bool = True
) -> Law:
    """The regularised horseshoe; ``collapsed`` samples the scales alone and then w | scales, which is Gaussian.

    Otherwise w̃ is sampled along, as the method's own program has it: the same posterior, far slower.
    """
    precision, pull, inputs = data.precision, data.pull, data.x.shape[1]
    zero = torch.zeros(1 + inputs, dtype=torch.float64)

    def of_normals(z: Tensor) -> tuple[Tensor, Tensor]:
        tau, local = global_scale * half_cauchy(z[..., :1]), half_cauchy(z[..., 1:])
        return regularised(tau * local, slab), torch.cat([tau, local], -1).log()

    def program() -> None:
        scale, _ = of_normals(pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1)))
        if collapsed:
            pyro.factor("y", log_evidence(data, scale))
        else:
            w = scale * pyro.sample("v", dist.Normal(zero[1:], zero[1:] + 1).to_event(1))
            pyro.factor("y", pull @ w - 0.5 * w @ precision @ w)

    def of(sites: Q) -> tuple[Tensor, Tensor]:
        scale, logs = of_normals(sites["z"])
        return (conditional_draws(data, scale) if collapsed else scale * sites["v"]), logs

    return sampled(program, of, chains, samples)


# --- the best mean-field posterior ---------------------------------------------------------------------------------


class Family(NamedTuple):
    """What the ELBO of a linear regression needs: KL of q from the prior, and q's mean and covariance of w."""

    kl: Callable[[Q], Tensor]
    moments: Callable[[Q], tuple[Tensor, Tensor]]


def elbo(data: Regression, family: Family, q: Q) -> Tensor:
    """The evidence lower bound, exact, less a constant of the data."""
    mean, cov = family.moments(q)
    fit = data.pull @ mean - 0.5 * mean @ data.precision @ mean - 0.5 * (data.precision * cov).sum()
    return fit - family.kl(q)


def optimum(data: Regression, family: Family, fitted: Q, starts: int = 20) -> tuple[Q, float]:
    """The best mean-field posterior found by L-BFGS from the fit and from random starts, and its ELBO."""
    generator = torch.Generator().manual_seed(0)
    best, highest = fitted, float(elbo(data, family, fitted))
    for start in range(starts):
        q = {}
        for name, value in fitted.items():
            spread = 0.0 if start == 0 else 0.5 if name == "loc" else 1.5
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            q[name] = (value + spread * noise).requires_grad_()
        optimiser = torch.optim.LBFGS(
            q.values(), max_iter=400, tolerance_grad=1e-7, tolerance_change=1e-10, line_search_fn="strong_wolfe"
        )

        def closure(q: Q = q, optimiser: torch.optim.Optimizer = optimiser) -> Tensor:
            optimiser.zero_grad()
            loss = -elbo(data, family, q)
            loss.backward()
            return loss

        optimiser.step(closure)
        reached = float(elbo(data, family, q).detach())
        if reached > highest:
            best, highest = {name: value.detach() for name, value in q.items()}, reached
    return best, highest


def expect(f: Callable[[Tensor], Tensor], loc: Tensor, log_scale: Tensor, nodes: int = 32) -> Tensor:
    """E f(u) for u ~ N(loc, e^{2 log_scale}), by Gauss-Hermite quadrature."""
    x, w = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
    return (f(loc[..., None] + log_scale.exp()[..., None] * x) * w).sum(-1) / math.sqrt(2 * math.pi)


def normal(kl: Callable[[Tensor, Tensor], Tensor]) -> Family:
    """q(w) = N(loc, σ²) under a prior by which ``kl(loc, log σ)`` is the KL of each entry."""

    def clipped(q: Q) -> Tensor:
        return q["log_scale"].clamp_min(-10.0)  # the methods' own clip

    return Family(lambda q: kl(q["loc"], clipped(q)).sum(), lambda q: (q["loc"], torch.diag((2 * clipped(q)).exp())))


def gaussian_kl(loc: Tensor, log_scale: Tensor, prior: float) -> Tensor:
    return 0.5 * (loc.square() + (2 * log_scale).exp()) / prior**2 - 0.5 - log_scale + math.log(prior)


def laplace_kl(loc: Tensor, log_scale: Tensor, b: float) -> Tensor:
    scale = log_scale.exp()
    size = scale * math.sqrt(2 / math.pi) * (-0.5 * (loc / scale).square()).exp()
    size = size + loc * torch.erf(loc / scale / math.sqrt(2))
    return size / b + math.log(2 * b) - 0.5 * math.log(2 * math.pi * math.e) - log_scale


def two_scales_kl(loc: Tensor, log_scale: Tensor, prior: bp.TwoScales) -> Tensor:
    parts = ((prior.wide, prior.fraction), (prior.narrow, 1 - prior.fraction))

    def log_p(w: Tensor) -> Tensor:
        return torch.stack([math.log(p / s) - 0.5 * (w / s).square() for s, p in parts]).logsumexp(0)

    return -0.5 - log_scale - expect(log_p, loc, log_scale)


def ard_kl(loc: Tensor, log_scale: Tensor) -> Tensor:
    return 0.5 * torch.log1p((loc / log_scale.exp()).square())


def spike_slab(inclusion: float, slab: float) -> Family:
    """The unrelaxed posterior: π of each gate, N(μ, σ²) under it."""

    def kl(q: Q) -> Tensor:
        share = q["logit"].sigmoid()
        inside = share * (nn.functional.logsigmoid(q["logit"]) - math.log(inclusion))
        outside = (1 - share) * (nn.functional.logsigmoid(-q["logit"]) - math.log1p(-inclusion))
        return (inside + outside + share * gaussian_kl(q["loc"], q["log_scale"], slab)).sum()

    def moments(q: Q) -> tuple[Tensor, Tensor]:
        share, var = q["logit"].sigmoid(), (2 * q["log_scale"]).exp()
        return share * q["loc"], torch.diag(share * (var + (1 - share) * q["loc"].square()))

    return Family(kl, moments)


def horseshoe_family(global_scale: float, slab: float) -> Family:
    """w = w̃ λ̃(τ λ) with log-normal q(τ), q(λ): through τ the weights are correlated."""

    def scale_kl(loc: Tensor, log_scale: Tensor, width: float) -> Tensor:
        tail = expect(lambda u: nn.functional.softplus(2 * (u - math.log(width))), loc, log_scale)
        entropy = loc + 0.5 * math.log(2 * math.pi * math.e) + log_scale
        return (tail - entropy - math.log(2 / math.pi) + math.log(width)).sum()

    def kl(q: Q) -> Tensor:
        scales = scale_kl(q["global_loc"], q["global_log_scale"], global_scale)
        scales = scales + scale_kl(q["local_loc"], q["local_log_scale"], 1.0)
        return scales + gaussian_kl(q["loc"], q["log_scale"], 1.0).sum()

    def moments(q: Q) -> tuple[Tensor, Tensor]:
        loc, second = q["loc"], q["loc"].square() + (2 * q["log_scale"]).exp()

        def joint(tau: Tensor) -> Tensor:  # E λ̃_i λ̃_j and E λ̃_i in rows, given each log τ
            def local(power: int) -> Tensor:
                scale = lambda u: regularised((u + tau.reshape(-1, 1, 1)).exp(), slab) ** power  # noqa: E731
                return expect(scale, q["local_loc"], q["local_log_scale"])

            first = local(1)
            product = first[:, :, None] * first[:, None, :]
            product = torch.diagonal_scatter(product, local(2), dim1=1, dim2=2)
            return torch.cat([product, first[:, None]], 1).movedim(0, -1)

        scales = expect(joint, q["global_loc"].squeeze(), q["global_log_scale"].squeeze())
        mean = loc * scales[-1]
        square = torch.diagonal_scatter(loc[:, None] * loc, second) * scales[:-1]
        return mean, square - mean[:, None] * mean

    return Family(kl, moments)


# --- the fit -------------------------------------------------------------------------------------------------------


def fit(
    method: bp.Method, data: Regression, epochs: int, lr: float = 0.05, seed: int = 0, copies: int = 1
) -> bp.BayesianNet:
    """Fit from a fresh net, the whole data set a batch; the rate falls to 0 as a cube, the warm-up is a tenth.

    ``copies`` of the data with √copies times the noise have the same likelihood; as every copy is drawn on its own,
    the gradient of a Gaussian draw is less noisy.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Linear(data.x.shape[1], 1, bias=False)
    bnet = bp.BayesianNet(net, {"weight": method}, estimator="local")
    loader = [(data.x.float().repeat(copies, 1), data.y.float()[:, None].repeat(copies, 1))]
    model = bp.regress(bnet, size=len(loader[0][1]), noise=data.noise * math.sqrt(copies))

    def decay(progress: float) -> float:
        return (1 - progress) ** 3

    bp.fit(model, bnet.guide, loader, epochs=epochs, lr=lr, decay=decay, warmup=0.1 * epochs, seed=seed)
    return bnet.eval()


def law(bnet: bp.BayesianNet, draws: int = DRAWS) -> Law:
    """What was fitted, in the same terms as the gold standard."""
    mean, var = (m.flatten().double() for m in bnet.moments()["weight"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.stack([bnet.draw()["weight"].flatten() for _ in range(draws)]).double()
    return Law(mean, var.sqrt(), drawn)


def parameters(bnet: bp.BayesianNet) -> Q:
    """The fitted q in float64, its weights as a vector."""
    return {n: p.detach().double().flatten() for n, p in bnet.posteriors["weight"].named_parameters()}


# --- the comparison ------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    method: bp.Method
    family: Family
    gold: Callable[[Regression, int, int], Law]
    how: str
    lr: float = 0.05


PRIOR, B, TAU, SLAB, INCLUSION = 1.0, 0.3, 0.1, 2.0, 0.25
TWO = bp.TwoScales(wide=1.0, narrow=0.05, fraction=0.25)
CASES: dict[str, Case] = {
    "Gaussian": Case(
        bp.Gaussian(PATTERN, prior=PRIOR),
        normal(lambda loc, log_scale: gaussian_kl(loc, log_scale, PRIOR)),
        lambda data, *_: conjugate(data, torch.full_like(data.weight, PRIOR)),
        "closed form",
    ),
    "Gaussian, two scales": Case(
        bp.Gaussian(PATTERN, prior=TWO),
        normal(lambda loc, log_scale: two_scales_kl(loc, log_scale, TWO)),
        lambda data, *_: enumerated(data, TWO.wide, TWO.narrow, TWO.fraction),
        "65,536 models",
    ),
    "SpikeSlab": Case(
        bp.SpikeSlab(PATTERN, inclusion=INCLUSION, slab=PRIOR),
        spike_slab(INCLUSION, PRIOR),
        lambda data, *_: enumerated(data, PRIOR, 0.0, INCLUSION),
        "65,536 models",
        lr=0.01,  # its logit takes 20 times that: at 1 a step it jumps to its clip and stays
    ),
    "ARD": Case(bp.ARD(PATTERN), normal(ard_kl), lambda data, *_: best_evidence(data), "best evidence"),
    "Laplace": Case(
        bp.Laplace(PATTERN, prior=B),
        normal(lambda loc, log_scale: laplace_kl(loc, log_scale, B)),
        lambda data, chains, samples: lasso(data, B, chains, samples),
        "NUTS",
    ),
    "Horseshoe": Case(
        bp.Horseshoe(PATTERN, global_scale=TAU, slab=SLAB),
        horseshoe_family(TAU, SLAB),
        lambda data, chains, samples: horseshoe(data, TAU, SLAB, chains, samples),
        "NUTS",
    ),
}
WITHOUT = {
    "SparseVD": "the log-uniform prior is improper, and so is the posterior (Hron et al. 2018)",
    "GroupVD": "the same prior on the multipliers; the weights under them are points",
    "NormalJeffreys": "the same prior on the group scales",
    "HardConcrete": "the gates pay a cost, which is no KL from a prior; the weights are points",
    "StructuredDropout": "a proper prior on the noise, but over weights that are points",
}


class Distance(NamedTuple):
    """From one posterior to another, over the inputs that the gold standard keeps."""

    mean: float  # the largest distance of means, gold standard deviations
    sds: tuple[float, float]  # smallest and largest ratio of standard deviations


def distance(mean: Tensor, sd: Tensor, gold: Law) -> Distance:
    kept = gold.sd > 1e-6
    ratio = (sd / gold.sd)[kept]
    return Distance(float(((mean - gold.mean) / gold.sd)[kept].abs().max()), (float(ratio.min()), float(ratio.max())))


def transport(fitted: Law, gold: Law) -> float:
    """The largest Wasserstein-1 distance of an input's marginals, gold standard deviations."""
    kept = (gold.sd > 1e-6).nonzero()[:, 0].tolist()
    return max(wasserstein_distance(fitted.draws[:, i], gold.draws[:, i]) / float(gold.sd[i]) for i in kept)


def held(fitted: Law, gold: Law) -> Tensor:
    """How much of the exact posterior lies in the fit's central 90 % interval, by input."""
    low, high = fitted.draws.quantile(torch.tensor([0.05, 0.95]).double(), 0)
    inside = (gold.draws >= low) & (gold.draws <= high)
    return inside.double().mean(0)[gold.sd > 1e-6]


def spread_of_prediction(data: Regression, law: Law) -> float:
    """The root mean variance of the regression function at the data."""
    return float((law.draws @ data.x.T).var(0).mean().sqrt())


def remarks(data: Regression, gold: Law, fitted: Law, q: Q, best: Q) -> list[str]:
    """What one method's gold standard says beyond the weights' moments."""
    lines = [] if gold.quality == "exact" else [gold.quality]
    dropped = gold.sd <= 1e-6
    if dropped.any():
        largest = float((fitted.mean.square() + fitted.sd.square())[dropped].max().sqrt())
        lines.append(
            f"of {int(dropped.sum())} inputs that the evidence drops, the fit's largest √E w² is {largest:.4f}"
        )
    if gold.inclusion is not None and "logit" in q:
        inclusions = {"exact": gold.inclusion, "mf": best["logit"].sigmoid(), "fit": q["logit"].sigmoid()}
        for title, values in {"weight": data.weight, **inclusions}.items():
            lines.append(f"{title:>6} " + " ".join(f"{float(v):6.3f}" for v in values))
    if gold.log_scales is not None:
        relevant = data.weight != 0
        for title, level, of in (
            ("log τ", "global", torch.tensor([True])),
            ("log λ, relevant", "local", relevant),
            ("log λ, the rest", "local", ~relevant),
        ):
            draws = gold.log_scales[:, :1] if level == "global" else gold.log_scales[:, 1:]
            means = draws[:, of].mean(), q[f"{level}_loc"][of].mean()
            sds = draws[:, of].std(0).mean(), q[f"{level}_log_scale"][of].exp().mean()
            lines.append("{}: mean {:.2f}, fit {:.2f}; sd {:.2f}, fit {:.2f}".format(title, *means, *sds))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4000)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--samples", type=int, default=1000, help="NUTS draws per chain, after half as many of warm-up")
    parser.add_argument("--methods", nargs="*", choices=CASES, default=list(CASES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    console, began = Console(width=150), time.process_time()
    for correlation in (0.0, 0.9):
        data = regression(args.seed, correlation)
        title = f"inputs correlated by {correlation}" if correlation else "independent inputs"
        table = Table(title=f"{title}, seed {args.seed}, {args.epochs} epochs; mf: the best mean-field posterior")
        for heading in (
            *("method", "gold standard", "means off, sds: fit", "mf", "sd / exact sd: fit", "mf", "nats below mf"),
            *("Wasserstein, sds", "90 % holds, mean (least)", "sd of f(x) / exact"),
        ):
            table.add_column(heading)
        notes = []
        for name in args.methods:
            case = CASES[name]
            gold = case.gold(data, args.chains, args.samples)
            bnet = fit(case.method, data, args.epochs, case.lr, args.seed)
            fitted, q = law(bnet), parameters(bnet)
            best, highest = optimum(data, case.family, q)
            mean, cov = case.family.moments(best)
            ours = distance(fitted.mean, fitted.sd, gold)
            ideal = distance(mean, cov.diagonal().sqrt(), gold)
            inside = held(fitted, gold)
            table.add_row(
                *(name, case.how, f"{ours.mean:.3f}", f"{ideal.mean:.3f}"),
                *("{:.2f} to {:.2f}".format(*ours.sds), "{:.2f} to {:.2f}".format(*ideal.sds)),
                *(f"{highest - float(elbo(data, case.family, q)):.3f}", f"{transport(fitted, gold):.2f}"),
                f"{inside.mean():.0%} ({inside.min():.0%})",
                f"{spread_of_prediction(data, fitted) / spread_of_prediction(data, gold):.2f}",
            )
            notes += [f"{name}: {line}" for line in remarks(data, gold, fitted, q, best)]
            print(name, "done", flush=True)
        console.print(table, *notes, sep="\n")
    without = Table("method", "why there is no gold standard")
    for name, reason in WITHOUT.items():
        without.add_row(name, reason)
    console.print(without, f"{time.process_time() - began:.0f} s of one core")


if __name__ == "__main__":
    main()
