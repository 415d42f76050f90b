"""The log-uniform prior: its KL against the definition in high precision, its draws, and its place in Pyro's ELBOs."""

import math

import mpmath
import numpy as np
import pytest
import torch
from pyro import poutine
from scipy import integrate, stats
from torch.distributions import kl_divergence

from bayesprune.distributions import LazyNormal, LogUniform
from bayesprune.distributions.log_uniform import kl_exact, kl_fit, log_alpha

GRID = np.linspace(-20.0, 20.0, 81)  # nats of log α


def kl_by_series(la: float) -> float:
    """½ Σ Poisson(j; u) (ψ(½ + j) − ψ(½)), u = 1/(2α): E log w² of a noncentral χ², by its Poisson mixture.

    KL = ½ E log(w²/σ²) − ½ ψ(½) − ½ log 2, for −½ log σ² in E log q cancels against the 1/|w| of the prior.
    """
    with mpmath.workdps(30):
        u = mpmath.exp(-mpmath.mpf(la)) / 2
        width = 12 * mpmath.sqrt(u) + 60
        low, high = max(0, int(u - width)), int(u + width)
        weight = mpmath.exp(low * mpmath.log(u) - u - mpmath.loggamma(low + 1))
        gain = mpmath.digamma(low + mpmath.mpf(1) / 2) - mpmath.digamma(mpmath.mpf(1) / 2)
        total = mpmath.mpf(0)
        for j in range(low, high + 1):
            total += weight * gain
            gain += 1 / (j + mpmath.mpf(1) / 2)
            weight *= u / (j + 1)
        return float(total / 2)


def kl_by_definition(la: float) -> float:
    """E log q − log p, less the same at α → ∞, by scipy's quadrature in t = (w − μ)/σ with μ/σ = e^{−la/2}."""
    shift = math.exp(-la / 2)

    def mean_log(shift: float) -> float:
        def integrand(t: float) -> float:
            return math.log(abs(shift + t)) * math.exp(-t * t / 2) / math.sqrt(2 * math.pi) if shift + t else 0.0

        hole = min(max(-shift, -12.0), 12.0)
        parts = [integrate.quad(integrand, a, b, limit=400, epsabs=1e-10)[0] for a, b in ((-12, hole), (hole, 12))]
        return sum(parts)

    # E log q has the entropy −½ log(2πe σ²); with w = σ (shift + t) the σ in it cancels the one in E log|w|
    return mean_log(shift) - mean_log(0.0)


def kl_series_or_asymptote(la: float) -> float:
    """The series, and for huge u its asymptote ½ (log u − ψ(½)) − 1/(4u) − 3/(16u²), whose error is O(u⁻³)."""
    u = math.exp(-la) / 2
    if u < 2e4:
        return kl_by_series(la)
    return 0.5 * (math.log(u) - float(mpmath.digamma(0.5))) - 1 / (4 * u) - 3 / (16 * u**2)


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    return torch.tensor([kl_series_or_asymptote(float(la)) for la in GRID], dtype=torch.float64)


@pytest.mark.parametrize("la", [-9.0, -5.0, -2.0, 0.0, 1.5, 4.0, 9.0])
def test_the_reference_series_is_the_kl_of_the_definition(la):
    assert kl_by_series(la) == pytest.approx(kl_by_definition(la), abs=1e-8)


def test_the_reference_asymptote_joins_the_series():
    for la in (-10.5, -10.0, -9.5):
        u = math.exp(-la) / 2
        asymptote = 0.5 * (math.log(u) - float(mpmath.digamma(0.5))) - 1 / (4 * u) - 3 / (16 * u**2)
        assert kl_by_series(la) == pytest.approx(asymptote, abs=1e-9)


def test_the_exact_kl_is_exact_over_forty_nats(truth):
    assert float((kl_exact(torch.tensor(GRID)) - truth).abs().max()) < 1e-6


def test_the_fitted_kl_is_within_a_hundredth_of_a_nat(truth):
    error = (kl_fit(torch.tensor(GRID)) - truth).abs()
    assert float(error.max()) < 0.0095
    assert float(error.max()) > 0.009  # the docstring's figure is no idle bound
    assert abs(GRID[int(error.argmax())] + 3.5) <= 0.5


@pytest.mark.parametrize("kl", [kl_exact, kl_fit])
def test_in_single_precision_a_kl_keeps_single_precision(kl, truth):
    exact = kl(torch.tensor(GRID))
    single = kl(torch.tensor(GRID, dtype=torch.float32))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("kl", [kl_exact, kl_fit])
def test_a_kl_falls_from_linear_to_zero(kl):
    la = torch.linspace(-30, 30, 601, dtype=torch.float64)
    values = kl(la)
    assert bool((values.diff() <= 1e-12).all())
    assert float(values[-1]) == pytest.approx(0, abs=1e-9)
    slope = (values[1] - values[0]) / (la[1] - la[0])
    assert float(slope) == pytest.approx(-0.5, abs=1e-6)


@pytest.mark.parametrize("kl", [kl_exact, kl_fit])
def test_slopes_are_those_of_finite_differences(kl):
    la = torch.tensor(GRID[1:-1]).requires_grad_()
    kl(la).sum().backward()
    h = 1e-4
    with torch.no_grad():
        numeric = (kl(la + h) - kl(la - h)) / (2 * h)
    torch.testing.assert_close(la.grad, numeric, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("kl", [kl_exact, kl_fit])
def test_second_derivatives_are_those_of_finite_differences(kl):
    la = torch.linspace(-12, 12, 25, dtype=torch.float64)

    def slope(la: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = (la / 2).requires_grad_()  # through a chain: a curvature left out would go unnoticed without it
        (result,) = torch.autograd.grad(kl(2 * x).sum(), x, create_graph=True)
        return result, x

    result, x = slope(la)
    (curve,) = torch.autograd.grad(result.sum(), x)
    h = 1e-4
    numeric = (slope(la + 2 * h)[0] - slope(la - 2 * h)[0]) / (2 * h)
    torch.testing.assert_close(curve, numeric.detach(), atol=1e-7, rtol=1e-5)


def test_log_alpha_is_minus_two_log_snr():
    loc, scale = torch.tensor([2.0, -0.3, 1e-3]), torch.tensor([0.5, 0.3, 1.0])
    torch.testing.assert_close(log_alpha(loc, scale), -2 * (loc.abs() / scale).log(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_mean_zero_the_kl_and_its_gradients_are_finite(exact, dtype):
    loc = torch.zeros(3, dtype=dtype, requires_grad=True)
    log_scale = torch.tensor([-10.0, -4.0, 2.0], dtype=dtype, requires_grad=True)
    kl = kl_divergence(LazyNormal(loc, log_scale.exp()), LogUniform((3,), exact=exact))
    kl.sum().backward()
    for tensor in (kl, loc.grad, log_scale.grad):
        assert bool(torch.isfinite(tensor).all())
    assert bool((loc.grad == 0).all())
    assert float(kl.detach()[1:].max()) == pytest.approx(0, abs=1e-5)


def pair(exact: bool) -> tuple[LazyNormal, LogUniform, torch.Tensor]:
    """q, p and the KL, entry by entry."""
    loc = torch.tensor([[1.0, -0.2, 0.05], [3.0, 0.5, -2.0]], dtype=torch.float64)
    scale = torch.tensor([[0.1, 0.3, 1.0], [2.0, 0.5, 0.7]], dtype=torch.float64)
    return (
        LazyNormal(loc, scale),
        LogUniform((2, 3), exact=exact),
        (kl_exact if exact else kl_fit)(log_alpha(loc, scale)),
    )


@pytest.mark.parametrize("exact", [True, False])
def test_the_registered_kl_passes_through_events_and_masks(exact):
    q, p, kl = pair(exact)
    torch.testing.assert_close(kl_divergence(q, p), kl)
    torch.testing.assert_close(kl_divergence(q.to_event(2), p.to_event(2)), kl.sum())
    torch.testing.assert_close(kl_divergence(q.to_event(1), p.to_event(1)), kl.sum(1))
    mask = torch.tensor([[True, False, True], [False, False, True]])
    torch.testing.assert_close(kl_divergence(q.mask(mask), p.mask(mask)), kl * mask)
    joined = kl_divergence(q.mask(mask).to_event(2), p.mask(mask).to_event(2))
    torch.testing.assert_close(joined, (kl * mask).sum())


def test_the_offset_is_what_monte_carlo_gives_beyond_the_kl():
    torch.manual_seed(0)
    n = 200_000
    for low, high in ((-20.0, 0.0), (-3.0, 1.0)):
        q, _, kl = pair(exact=True)
        p = LogUniform((2, 3), low, high, exact=True)
        w = q.sample(torch.Size([n]))
        terms = q.log_prob(w) - p.log_prob(w)
        error = terms.std(0) / math.sqrt(n)
        assert float(((terms.mean(0) - kl - p.kl_offset).abs() / error).max()) < 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("low", "high"), [(-20.0, 0.0), (-2.0, 3.0)])
def test_a_draw_is_uniform_in_log_magnitude_and_its_sign_a_coin(low, high, dtype):
    torch.manual_seed(0)
    w = LogUniform((50,), low, high, like=torch.ones(3, dtype=dtype)).sample(torch.Size([400]))
    assert w.shape == (400, 50)
    assert w.dtype == dtype
    magnitude = w.abs().log().double().flatten().numpy()
    assert stats.kstest(magnitude, stats.uniform(low, high - low).cdf).pvalue > 1e-4
    assert abs(int((w > 0).sum()) - 10_000) < 5 * math.sqrt(5_000)
    assert abs(stats.pearsonr(magnitude, w.sign().flatten()).statistic) < 5 / math.sqrt(20_000)


def test_inside_its_range_it_is_a_density():
    p = LogUniform((), -3.0, 1.0)

    def density(w: float) -> float:
        return float(p.log_prob(torch.tensor(w, dtype=torch.float64)).exp())

    total = 2 * integrate.quad(density, math.exp(-3), math.exp(1))[0]
    assert total == pytest.approx(1, abs=1e-9)
    assert density(-0.4) == density(0.4)
    assert density(1e6) > 0  # the same formula outside, as the docstring says


def test_at_zero_the_log_probability_is_finite():
    assert math.isfinite(float(LogUniform(()).log_prob(torch.tensor(0.0, dtype=torch.float64))))


def test_at_zero_the_log_probability_is_finite_in_single_precision_too():
    p = LogUniform(())
    w = torch.tensor(0.0, requires_grad=True)
    p.log_prob(w).backward()
    assert math.isfinite(p.log_prob(w).item())
    assert math.isfinite(float(w.grad))


def test_expanding_keeps_range_form_and_dtype():
    p = LogUniform((1,), -5.0, 2.0, exact=True, like=torch.ones(1, dtype=torch.float64)).expand(torch.Size([4, 3]))
    assert (p.low, p.high, p.exact, p.batch_shape) == (-5.0, 2.0, True, torch.Size([4, 3]))
    assert p.sample().dtype == torch.float64


def test_a_range_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"low=1\.0, high=1\.0"):
        LogUniform((2,), 1.0, 1.0)


def test_it_can_be_a_site_of_a_pyro_model():
    import pyro

    trace = poutine.trace(lambda: pyro.sample("w", LogUniform((2, 3)).to_event(2))).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["w"]["log_prob"].shape == ()
