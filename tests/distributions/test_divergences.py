"""The KLs and moments of the methods' own distributions, against quadrature and Monte Carlo."""

import math
from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import kl_divergence

from bayesprune.distributions.half_cauchy import hermite
from bayesprune.distributions.hard_concrete import HardConcreteGate, L0Gate
from bayesprune.distributions.truncated_log_normal import TruncatedLogNormal, TruncatedLogUniform
from bayesprune.fitting.elbo import MeanFieldELBO
from bayesprune.methods import ARD, GroupVD, HardConcrete, Laplace, Method, SpikeSlab
from bayesprune.methods.weight import Weight
from bayesprune.patterns import Block, Unstructured


def double(*values: float) -> list[Tensor]:
    return [torch.tensor(v, dtype=torch.float64) for v in values]


def under(density: Callable[[float], float], value: Callable[[float], float], low: float, high: float) -> float:
    return integrate.quad(lambda u: density(u) * value(u), low, high, limit=500, epsabs=1e-12)[0]


def kl_of(method: Method, tensor: Tensor, training: bool = True) -> Tensor:
    posterior = method.posterior(Weight("w", tensor, method.pattern)).train(training)
    with torch.random.fork_rng():
        elbo = MeanFieldELBO()
        elbo.differentiable_loss(posterior.prior, posterior.guide)
    return elbo.kl


@pytest.mark.parametrize("loc", [-6.0, -1.0, 0.0, 3.0])
@pytest.mark.parametrize("scale", [0.05, 0.5, 1.6])
@pytest.mark.parametrize("gamma", [0.01, 1.0])
def test_log_normal_from_half_cauchy_is_quadrature(loc: float, scale: float, gamma: float) -> None:
    q = stats.norm(loc, scale)

    def log_ratio(u: float) -> float:  # in u = log z, where the half-Cauchy has the Jacobian e^u
        log_p = math.log(2 / math.pi) - math.log(gamma) - math.log1p(math.exp(2 * u) / gamma**2) + u
        return float(q.logpdf(u)) - log_p

    expected = under(q.pdf, log_ratio, loc - 12 * scale, loc + 12 * scale)
    mu, sd, width = double(loc, scale, gamma)
    found = kl_divergence(dist.LogNormal(mu, sd), dist.HalfCauchy(width))
    assert found.item() == pytest.approx(expected, abs=2e-4)


def test_hermite_integrates_polynomials_exactly() -> None:
    x, w = hermite(*double(0.3, 1.7))
    assert float((x**4 * w).sum()) == pytest.approx(stats.norm(0.3, 1.7).moment(4), rel=1e-10)


@pytest.mark.parametrize("loc", [-18.0, -3.0, -0.5, 0.0])
@pytest.mark.parametrize("scale", [0.01, 0.3, 3.0])
def test_truncated_log_normal_is_quadrature(loc: float, scale: float) -> None:
    low, high = max(-20.0, loc - 12 * scale), min(0.0, loc + 12 * scale)
    q = stats.truncnorm((-20 - loc) / scale, (0 - loc) / scale, loc, scale)
    expected = under(q.pdf, lambda u: float(q.logpdf(u)) + math.log(20.0), low, high)
    noise = TruncatedLogNormal(*double(loc, scale))
    found = kl_divergence(noise, TruncatedLogUniform((), like=noise.loc))
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for k, moment in enumerate(noise.moments(), start=1):
        assert moment.item() == pytest.approx(under(q.pdf, lambda u, k=k: math.exp(k * u), low, high), rel=1e-5)


def test_truncated_log_normal_draws_have_its_distribution() -> None:
    torch.manual_seed(0)
    for loc, scale in ((-0.5, 1.0), (-19.5, 2.0), (-5.0, 0.1)):
        draws = TruncatedLogNormal(*double(loc, scale)).rsample(torch.Size([4000])).log()
        truth = stats.truncnorm((-20 - loc) / scale, (0 - loc) / scale, loc, scale)
        assert stats.kstest(draws.numpy(), truth.cdf).pvalue > 1e-4


@pytest.mark.parametrize("log_alpha", [-4.0, -0.5, 0.0, 2.0, 5.0])
def test_hard_concrete_moments_and_masses_are_those_of_its_draws(log_alpha: float) -> None:
    torch.manual_seed(0)
    gate = HardConcreteGate(*double(log_alpha))
    n = 200_000
    z = gate.rsample(torch.Size([n]))
    for found, values in ((gate.open, (z > 0).double()), (gate.moments()[0], z), (gate.moments()[1], z.square())):
        assert abs(found.item() - values.mean().item()) <= 5 * values.std().item() / math.sqrt(n) + 1e-6
    inside = under(lambda u: 1.0, lambda u: gate.log_prob(*double(u)).exp().item(), 1e-6, 1 - 1e-6)
    edges = sum(gate.log_prob(t).exp().item() for t in double(0.0, 1.0))
    assert inside + edges == pytest.approx(1.0, abs=1e-4)


def test_hard_concretes_cost_is_paid_per_open_gate() -> None:
    torch.manual_seed(0)
    gate = HardConcreteGate(torch.randn(5, dtype=torch.float64))
    draws = gate.rsample(torch.Size([100_000]))
    paid = -L0Gate((5,), 3.0).log_prob(draws).sum(-1)
    expected = kl_divergence(gate, L0Gate((5,), 3.0)).sum()
    assert abs(paid.mean() - expected) <= 5 * paid.std() / math.sqrt(len(draws))
    assert kl_of(HardConcrete(cost=2.0, init_open=0.9), torch.randn(10)).item() == pytest.approx(
        2.0 * 0.9 * 10, rel=1e-5
    )


def test_an_l0_gate_opens_at_the_odds_of_its_cost() -> None:
    torch.manual_seed(0)
    draws = L0Gate((100_000,), 1.5).sample()
    p = math.exp(-1.5) / (1 + math.exp(-1.5))
    assert abs(draws.mean().item() - p) <= 5 * math.sqrt(p * (1 - p) / 100_000)


def test_ards_kl_is_the_papers_and_a_groups_prior_is_shared() -> None:
    torch.manual_seed(0)
    mu = torch.randn(4, 6)
    var = math.exp(-8.0)
    assert kl_of(ARD(), mu).item() == pytest.approx(0.5 * float(torch.log1p(mu.square() / var).sum()), rel=1e-5)
    tau = (mu.square() + var).reshape(2, 2, 6).mean(1)
    shared = 0.5 * float((tau.log() - math.log(var)).sum()) * 2
    assert kl_of(ARD(Block(2, 1)), mu).item() == pytest.approx(shared, rel=1e-5)


@pytest.mark.parametrize("loc", [0.0, 0.3, -2.0])
def test_laplaces_kl_is_quadrature(loc: float) -> None:
    scale, b = 0.4, 0.2
    q, p = stats.norm(loc, scale), stats.laplace(0, b)
    expected = under(q.pdf, lambda w: float(q.logpdf(w) - p.logpdf(w)), loc - 10 * scale, 0) + under(
        q.pdf, lambda w: float(q.logpdf(w) - p.logpdf(w)), 0, loc + 10 * scale
    )
    if loc < 0:  # the kink at 0 lies above the mean
        expected = under(q.pdf, lambda w: float(q.logpdf(w) - p.logpdf(w)), loc - 10 * scale, loc + 10 * scale)
    found = kl_of(Laplace(prior=b, init_log_scale=math.log(scale)), torch.tensor([loc], dtype=torch.float64))
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_spike_and_slab_is_exact_in_evaluation() -> None:
    """KL = Σ KL(Bernoulli) + π KL(Gaussian), and draws are exactly 0 with probability 1 − π."""
    torch.manual_seed(0)
    mu = torch.randn(3, 4, dtype=torch.float64)
    method = SpikeSlab(inclusion=0.2, slab=0.7, init_inclusion=0.9, init_log_scale=-1.0)
    pi, p, sd = 0.9, 0.2, math.exp(-1.0)
    bernoulli = pi * math.log(pi / p) + (1 - pi) * math.log((1 - pi) / (1 - p))
    gaussian = math.log(0.7 / sd) - 0.5 + (sd**2 + (mu / pi).square()) / (2 * 0.49)
    expected = 12 * bernoulli + pi * float(gaussian.sum())
    assert kl_of(method, mu, training=False).item() == pytest.approx(expected, rel=1e-6)
    posterior = method.posterior(Weight("w", mu, Unstructured())).eval()
    with torch.no_grad():
        draws = []
        for _ in range(2000):
            trace = poutine.trace(posterior.guide).get_trace()
            draws.append(poutine.replay(posterior.prior, trace=trace)() + 0)
    zeros = (torch.stack(draws) == 0).double().mean()
    assert abs(zeros.item() - 0.1) <= 5 * math.sqrt(0.09 / (2000 * 12))


def test_a_relaxed_spike_and_slab_bounds_the_exact_one_at_any_temperature() -> None:
    """Two concretes at one temperature are two logistics in other coordinates, and the Bernoulli is their sign."""
    mu = torch.randn(200, dtype=torch.float64)

    def relaxed(temperature: float) -> float:
        posterior = SpikeSlab(temperature=temperature).posterior(Weight("w", mu, Unstructured()))
        elbo, found = MeanFieldELBO(), []
        for seed in range(30):
            torch.manual_seed(seed)
            elbo.differentiable_loss(posterior.prior, posterior.guide)
            found.append(elbo.kl.item())
        return sum(found) / len(found)

    exact = kl_of(SpikeSlab(), mu, training=False).item()
    assert relaxed(0.5) == pytest.approx(relaxed(1.0), rel=1e-3)
    assert relaxed(0.5) > exact + 50


def test_tied_group_dropout_pays_per_weight_and_untied_per_group() -> None:
    theta = torch.randn(8, 6)
    per_weight, per_group = (kl_of(GroupVD(Block(4, 1), tied=tied), theta).item() for tied in (True, False))
    assert per_weight == pytest.approx(4 * per_group, rel=1e-4)
