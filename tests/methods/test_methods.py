"""The contract of every method over every pattern: programs, KL, moments, gradients, copies, pruning."""

import copy
import dataclasses
import io
import itertools
import math
import pickle
import statistics
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import pytest
import torch
from pyro import poutine
from scipy import integrate, optimize, stats
from support.methods import (
    CASES,
    COSTS,
    DIVERGENCES,
    KL_SLACK,
    all_or_some,
    draw_of,
    family,
    kl_mean,
    kl_of,
    samples,
    traced,
)
from support.pairs import cover
from torch import Tensor

from bayesprune.distributions import ScaleMixture
from bayesprune.methods import (
    ARD,
    Gaussian,
    GroupVD,
    HardConcrete,
    Horseshoe,
    Laplace,
    Method,
    NormalJeffreys,
    Posterior,
    SparseVD,
    SpikeSlab,
    TwoScales,
)
from bayesprune.methods.weight import Weight
from bayesprune.patterns import NM, Block, Channel, Heads, Pattern, Unstructured

# --- the contract table: a new method is one line here -------------------------------------------------------------


# One prior scale for all groups, at its best: a part of them is never worse off with a scale of its own.
LEARNED = {"gaussian_learned", "laplace_learned", "spike_slab_learned"}


# ---------------------------------------------------------------------------------------------------------------------

WEIGHTS: dict[str, tuple[tuple[int, ...], dict[str, Pattern]]] = {
    "linear": (
        (8, 12),
        {
            "unstructured": Unstructured(),
            "block 4x1": Block(4, 1),
            "ragged block 3x5": Block(3, 5),
            "channel 0": Channel(0),
            "channel 1": Channel(1),
            "heads": Heads(4),
            "2:4": NM(2, 4),
        },
    ),
    "conv": (
        (4, 3, 3, 3),
        {
            "unstructured": Unstructured(),
            "block 2x2": Block(2, 2),
            "channel 0": Channel(0),
            "channel 1": Channel(1),
            "heads": Heads(2),
            "1:3": NM(1, 3),
        },
    ),
}
PLACES = {f"{kind}-{name}": (shape, p) for kind, (shape, patterns) in WEIGHTS.items() for name, p in patterns.items()}

every_method = pytest.mark.parametrize("case", CASES)
KINDS = {place: type(pattern) for place, (_, pattern) in PLACES.items()}

# Each law meets every method with every kind of pattern, and every place with every family of methods; each method
# meets each place under some law.
LAWS = ("KL", "sites", "draws", "moments", "gradients", "zeros", "no KL", "no gradient", "state")
ROWS = cover(
    [row for row in itertools.product(LAWS, PLACES, CASES) if row[0] != "KL" or row[2] in DIVERGENCES],
    lambda row: (row[0], KINDS[row[1]], row[2]),
    lambda row: (row[0], row[1], family(row[2])),
    itemgetter(1, 2),
)


def every_method_and_place(law: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("place", "case"), [row[1:] for row in ROWS if row[0] == law])


def posterior_of(case: str, place: str, repeats: int = 1) -> Posterior:
    """A posterior away from its start, as a fit would leave it: its parameters are spread at random, seeded."""
    shape, pattern = PLACES[place]
    torch.manual_seed(0)
    weight = (0.4 * torch.randn(shape)).repeat(repeats, *[1] * (len(shape) - 1))
    posterior = CASES[case](pattern).posterior(Weight("fc.weight", weight, pattern))
    with torch.no_grad():
        for parameter in posterior.parameters():
            times = repeats if parameter.shape[0] >= repeats else 1  # what all groups share does not grow
            noise = torch.rand(parameter.shape[0] // times, *parameter.shape[1:])
            parameter += 0.2 + noise.repeat(times, *[1] * (parameter.dim() - 1))
    return posterior


def shared_kl(posterior: Posterior) -> float:
    """The KL of the sites that all groups share, such as a global scale."""
    under_q, under_p = traced(posterior)
    shapes = {tuple(posterior.kept.shape), posterior.layout.shape}
    found = 0.0
    for name in samples(under_p):
        p, q = (t.nodes[name]["fn"] for t in (under_p, under_q))
        if tuple(p.event_shape) not in shapes:
            found += torch.distributions.kl_divergence(q, p).item()
    return found


def half(posterior: Posterior) -> Tensor:
    """Every other group."""
    kept = torch.ones_like(posterior.kept)
    kept.view(-1)[::2] = False
    return kept


# --- the three verbs --------------------------------------------------------------------------------------------------


@every_method_and_place("sites")
def test_prior_and_guide_have_the_same_sites_in_the_same_order(place: str, case: str) -> None:
    posterior = posterior_of(case, place)
    for kept in (torch.ones_like(posterior.kept), half(posterior)):
        posterior.prune(kept)
        prior = poutine.trace(posterior.prior).get_trace()
        guide = poutine.trace(posterior.guide).get_trace()
        assert samples(prior) == samples(guide)
        assert all(name == "fc.weight" or name.startswith("fc.weight.") for name in samples(prior))
        for name in samples(prior):
            assert prior.nodes[name]["value"].shape == guide.nodes[name]["value"].shape
        params = {n for t in (prior, guide) for n, s in t.nodes.items() if s["type"] == "param"}
        assert params == {f"fc.weight.{leaf}" for leaf, _ in posterior.named_parameters()}


@every_method_and_place("draws")
def test_prior_can_draw(place: str, case: str) -> None:
    posterior = posterior_of(case, place)
    first, *others = (posterior.prior() for _ in range(20))  # a gate has two states only
    assert first.shape == PLACES[place][0]
    assert first.dtype == torch.float32
    assert bool(torch.isfinite(first).all())
    random = bool(samples(poutine.trace(posterior.prior).get_trace()))
    assert any(not torch.equal(first, other) for other in others) == random


@every_method
def test_everything_stays_in_the_weights_dtype(case: str) -> None:
    weight = Weight("w", torch.randn(8, 12, dtype=torch.float64), Unstructured())
    posterior = CASES[case](Unstructured()).posterior(weight)
    under_q, under_p = traced(posterior)
    tensors = [posterior.prior(), *posterior.moments(), *posterior.parameters()]
    tensors += [t.nodes[n]["value"] for t in (under_q, under_p) for n in samples(t)]
    assert {t.dtype for t in tensors} == {torch.float64}


@every_method_and_place("moments")
def test_moments_are_those_of_guide_draws_through_the_prior(place: str, case: str) -> None:
    posterior = posterior_of(case, place)
    posterior.eval()  # a relaxation is for training
    n = 1000 if place == "linear-unstructured" else 100
    with torch.no_grad():
        draws = torch.stack([draw_of(posterior) for _ in range(n)]).double()
        mean, var = (m.double() for m in posterior.moments())
    assert mean.shape == var.shape == PLACES[place][0]
    centred = draws - mean
    mean_error = centred.mean(0).abs() - 5 * (var / n).sqrt()
    assert float(mean_error.max()) <= 1e-6
    squares = centred.square()
    totals = squares.flatten(1).sum(1)  # entries of a group may move together
    assert abs(float(totals.mean() - var.sum())) <= 5 * float(totals.std()) / math.sqrt(n) + 1e-9
    # entry by entry the band is at least a Gaussian's own, and wide: a chi-square has a tail
    spread = torch.maximum(squares.std(0), math.sqrt(2) * var) / math.sqrt(n)
    assert bool(((squares.mean(0) - var).abs() <= 8 * spread + 1e-9).all())


# --- the KL -----------------------------------------------------------------------------------------------------------


@every_method_and_place("KL")
def test_kl_is_monte_carlo_up_to_the_declared_offset(place: str, case: str) -> None:
    posterior = posterior_of(case, place)
    n = 300 if place == "linear-unstructured" else 40
    offset, ratios = 0.0, []
    with torch.no_grad():
        for _ in range(n):
            under_q, under_p = traced(posterior)
            ratio, offset = 0.0, 0.0
            for name in samples(under_p):
                q, p = under_q.nodes[name], under_p.nodes[name]
                ratio += float(q["fn"].log_prob(q["value"]).sum() - p["fn"].log_prob(p["value"]).sum())
                base = p["fn"].base_dist
                offset += getattr(base, "kl_offset", 0.0) * math.prod(base.batch_shape)
            ratios.append(ratio)
    kl, kl_error = kl_mean(posterior, n)
    error = math.hypot(statistics.stdev(ratios) / math.sqrt(n), kl_error)
    slack = KL_SLACK.get(case, 0.0) * math.prod(PLACES[place][0])
    assert abs(statistics.fmean(ratios) - (kl + offset)) <= 5 * error + slack + 1e-3
    assert kl > 0 or not samples(under_p)


@every_method
def test_kl_sums_over_entries(case: str) -> None:
    """A KL that is a mean by mistake is the commonest error of all: it leaves the data's half as it is."""
    posteriors = [posterior_of(case, "linear-unstructured", repeats=r) for r in (1, 2)]
    (one, error), (two, error2) = (kl_mean(p) for p in posteriors)
    one, two = (kl - shared_kl(p) for kl, p in zip((one, two), posteriors, strict=True))
    assert abs(two - 2 * one) <= 5 * math.hypot(2 * error, error2) + 1e-5 * abs(two)
    assert one > 1 or case == "deterministic"


def point(method: Method, loc: float, scale: float, n: int = 1) -> Posterior:
    """A Gaussian posterior N(loc, scale²), ``n`` entries alike, in float64."""
    weight = torch.full((n,), loc, dtype=torch.float64)
    posterior = method.posterior(Weight("w", weight, Unstructured()))
    posterior.get_parameter("log_scale").data.fill_(math.log(scale))
    return posterior


def quadrature(loc: float, scale: float, log_prior: Callable[[float], float]) -> float:
    """KL(N(loc, scale²) ‖ prior), nats, by adaptive quadrature over ±12 standard deviations."""

    def integrand(z: float) -> float:
        return stats.norm._pdf(z) * (stats.norm._logpdf(z) - math.log(scale) - log_prior(loc + scale * z))

    kinks = [-loc / scale] if abs(loc / scale) < 12 else []
    value, _ = integrate.quad(integrand, -12, 12, points=[*kinks, 0.0], epsabs=1e-10, epsrel=1e-11, limit=400)
    return value


@pytest.mark.parametrize("log_alpha", torch.linspace(-20, 20, 21).tolist())
@pytest.mark.parametrize("sd", [0.2, 1.0, 3.0])
def test_gaussian_kl_is_quadrature_over_40_nats_of_log_alpha(sd: float, log_alpha: float) -> None:
    alpha = math.exp(log_alpha)
    loc, scale = 1 / math.sqrt(1 + alpha), math.sqrt(alpha / (1 + alpha))
    posterior = point(Gaussian(prior=sd, clip=(-12.0, 1.0), init_log_scale=-1.0), loc, scale)
    truth = quadrature(loc, scale, lambda w: -0.5 * (w / sd) ** 2 - math.log(sd) - 0.5 * math.log(2 * math.pi))
    assert kl_of(posterior).item() == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 0.01), (0.3, 0.05), (0.05, 0.05), (-1.5, 0.4), (0.0, 1.0)])
def test_two_scales_kl_is_unbiased(loc: float, scale: float) -> None:
    prior = TwoScales(wide=0.7, narrow=0.05, fraction=0.4)

    def log_prior(w: float) -> float:
        wide, narrow = (stats.norm._logpdf(w / s) - math.log(s) for s in (prior.wide, prior.narrow))
        top = max(wide, narrow)
        return top + math.log(0.4 * math.exp(wide - top) + 0.6 * math.exp(narrow - top))

    n, runs = 20_000, 20
    posterior = point(Gaussian(prior=prior), loc, scale, n)
    with torch.no_grad():
        kls = torch.stack([kl_of(posterior) for _ in range(runs)]) / n
    truth = quadrature(loc, scale, log_prior)
    assert abs(float(kls.mean()) - truth) <= 5 * float(kls.std()) / math.sqrt(runs) + 1e-9
    assert float(kls.std()) < 0.02  # the band is narrow enough to see a factor of ½


def test_scale_mixture_draws_have_its_density() -> None:
    mixture = ScaleMixture((200_000,), wide=1.0, narrow=0.1, fraction=0.3)
    draws = mixture.sample()
    assert float(draws.var()) == pytest.approx(0.3 + 0.7 * 0.01, rel=0.02)
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    density = ScaleMixture((20_001,), wide=1.0, narrow=0.1, fraction=0.3).log_prob(grid).exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1.0, abs=1e-6)
    inside = float((draws.abs() < 0.2).double().mean())
    where = grid.abs() < 0.2
    assert inside == pytest.approx(float(torch.trapezoid(density[where], grid[where])), abs=0.01)


# --- gradients --------------------------------------------------------------------------------------------------------


@every_method_and_place("gradients")
def test_gradients_reach_every_entry_of_every_parameter(place: str, case: str) -> None:
    posterior = posterior_of(case, place)
    (kl_of(posterior) + (draw_of(posterior) * torch.randn(PLACES[place][0])).square().sum()).backward()
    assert dict(posterior.named_parameters())
    for name, parameter in posterior.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert all_or_some(case, parameter.grad != 0), name


@every_method
def test_rates_name_parameters(case: str) -> None:
    posterior = posterior_of(case, "linear-unstructured")
    assert set(posterior.lr_multipliers) <= {name for name, _ in posterior.named_parameters()}
    assert all(rate > 0 for rate in posterior.lr_multipliers.values())


# --- pruning ----------------------------------------------------------------------------------------------------------


@every_method_and_place("zeros")
def test_pruned_groups_have_weight_zero_and_kept_ones_do_not(place: str, case: str) -> None:
    posterior = posterior_of(case, place)
    posterior.prune(half(posterior))
    entries = posterior.entries()
    assert entries.shape == PLACES[place][0]
    assert 0 < int(entries.sum()) < entries.numel()
    for make in (lambda: draw_of(posterior), posterior.effective):
        weights = torch.stack([make() for _ in range(40 if case in COSTS else 1)])
        assert bool((weights[:, ~entries] == 0).all())
        assert all_or_some(case, weights[:, entries] != 0)


@every_method_and_place("no KL")
def test_pruned_groups_have_no_kl(place: str, case: str) -> None:
    """The KLs of two complementary halves add up to the whole, and nothing kept has none."""
    posterior = posterior_of(case, place)

    def kl(kept: Tensor) -> float:
        posterior.prune(kept)
        torch.manual_seed(1)
        return kl_of(posterior).item() - shared_kl(posterior)

    everything, some = torch.ones_like(posterior.kept), half(posterior)
    assert kl(~everything) == pytest.approx(0, abs=1e-5)
    whole = kl(everything)
    halves = kl(some) + kl(~some)
    assert halves == pytest.approx(whole, rel=1e-5) if case not in LEARNED else halves < whole
    assert kl(some) != whole or case == "deterministic"


@every_method_and_place("no gradient")
def test_no_gradient_reaches_pruned_groups(place: str, case: str) -> None:
    posterior = posterior_of(case, place)
    posterior.prune(half(posterior))
    (kl_of(posterior) + (draw_of(posterior) - 1.0).square().sum()).backward()
    masks = {tuple(posterior.kept.shape): posterior.kept, PLACES[place][0]: posterior.entries()}
    for name, parameter in posterior.named_parameters():
        mask = masks.get(tuple(parameter.shape))
        if mask is None:
            continue  # shared by all groups
        assert parameter.grad is not None, name
        assert bool((parameter.grad[~mask] == 0).all()), name
        assert all_or_some(case, parameter.grad[mask] != 0), name


@every_method
def test_pruning_with_the_wrong_mask_is_an_error(case: str) -> None:
    posterior = posterior_of(case, "linear-block 4x1")
    with pytest.raises(ValueError, match=r"fc\.weight.*\(2, 12\).*\(8, 12\)"):
        posterior.prune(torch.ones(8, 12, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"bool.*float32"):
        posterior.prune(torch.ones(2, 12))


# --- copies -----------------------------------------------------------------------------------------------------------


def saved(posterior: Posterior) -> Posterior:
    buffer = io.BytesIO()
    torch.save(posterior, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES: dict[str, Callable[[Posterior], Posterior]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda posterior: pickle.loads(pickle.dumps(posterior)),
    "torch.save": saved,
}


@pytest.mark.parametrize(
    ("place", "case", "way"),
    cover(
        list(itertools.product(PLACES, CASES, COPIES)),
        lambda row: (KINDS[row[0]], row[1]),
        itemgetter(0, 2),
        itemgetter(1, 2),
    ),
)
def test_copies_are_equal_and_independent(place: str, case: str, way: str) -> None:
    posterior = posterior_of(case, place)
    posterior.prune(half(posterior))
    draw_of(posterior)  # a copy must also work after use
    twin = COPIES[way](posterior)
    assert list(twin.state_dict()) == list(posterior.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(twin.state_dict().values(), posterior.state_dict().values(), strict=True)
    )
    torch.manual_seed(3)
    here = draw_of(posterior)
    torch.manual_seed(3)
    assert torch.equal(draw_of(twin), here)
    before = {name: value.clone() for name, value in posterior.state_dict().items()}
    with torch.no_grad():
        for value in twin.state_dict().values():
            value.logical_not_() if value.dtype == torch.bool else value.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in posterior.state_dict().items())


@every_method_and_place("state")
def test_state_dict_carries_parameters_and_what_is_pruned(place: str, case: str) -> None:
    posterior = posterior_of(case, place)
    posterior.prune(half(posterior))
    shape, pattern = PLACES[place]
    fresh = CASES[case](pattern).posterior(Weight("fc.weight", torch.zeros(shape), pattern))
    assert bool(fresh.kept.all())
    fresh.load_state_dict(posterior.state_dict())
    assert torch.equal(fresh.kept, posterior.kept)
    torch.manual_seed(3)
    here = draw_of(posterior)
    torch.manual_seed(3)
    assert torch.equal(draw_of(fresh), here)


# --- the hyper-parameters ---------------------------------------------------------------------------------------------


@every_method
def test_methods_are_frozen_values(case: str) -> None:
    method, same, other = CASES[case](Block(4, 1)), CASES[case](Block(4, 1)), CASES[case](Block(2, 1))
    assert method == same
    assert hash(method) == hash(same)
    assert method != other
    assert len({method, same, other}) == 2
    assert pickle.loads(pickle.dumps(method)) == method
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.pattern = Unstructured()  # type: ignore[misc]


@every_method
def test_a_method_leaves_the_weight_as_it_was(case: str) -> None:
    tensor = torch.randn(8, 12, requires_grad=True)
    before = tensor.detach().clone()
    posterior = CASES[case](Unstructured()).posterior(Weight("w", tensor, Unstructured()))
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.fill_(7.0)
    assert torch.equal(tensor, before)
    assert tensor.grad is None


@every_method
def test_a_posterior_starts_at_the_weight(case: str) -> None:
    tensor = torch.randn(8, 12)
    mean, var = CASES[case](Unstructured()).posterior(Weight("w", tensor, Unstructured())).moments()
    assert torch.allclose(mean, tensor, rtol=1e-3)
    assert bool((var < 0.01 + 0.4 * tensor.square()).all())  # gates start half-way, noise much lower


WITH_SCALE: dict[str, Callable[[float | None], Method]] = {
    "gaussian": lambda s: Gaussian(prior=s),
    "laplace": lambda b: Laplace(prior=b),
    "spike_slab": lambda s: SpikeSlab(slab=s),
    "hard_concrete": lambda s: HardConcrete(gaussian=True, slab=s),
}


@pytest.mark.parametrize("what", WITH_SCALE)
def test_a_learned_prior_is_the_best_one_and_its_gradient_is_that_of_a_fixed_one(what: str) -> None:
    tensor = 0.3 * torch.randn(30, dtype=torch.float64)

    def posterior(scale: float | None) -> Posterior:
        torch.manual_seed(0)
        made = WITH_SCALE[what](scale).posterior(Weight("w", tensor, Unstructured()))
        for parameter in made.parameters():
            parameter.data.add_(torch.rand_like(parameter))
        made.prune(torch.arange(30) % 3 > 0)
        return made.eval()

    def kl(scale: float | None) -> float:
        torch.manual_seed(1)
        return kl_of(posterior(scale)).item()

    found = optimize.minimize_scalar(kl, bounds=(0.05, 20.0), method="bounded", options={"xatol": 1e-9})
    assert kl(None) == pytest.approx(found.fun, abs=1e-8)
    slopes = []
    for made in (posterior(None), posterior(float(found.x))):
        torch.manual_seed(1)
        kl_of(made).backward()
        slopes.append(torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None]))
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-6)


def test_thresholds_are_the_papers() -> None:
    threshold = SparseVD.snr_threshold
    assert threshold is not None
    assert -2 * math.log(threshold) == pytest.approx(3.0)  # Molchanov et al. 2017 prune at log α > 3
    assert Gaussian.snr_threshold is None


def test_scales_are_held_inside_the_clip_and_can_come_back() -> None:
    """A projection, not a clamp in the graph: at the bound the gradient still flows."""
    for method in (SparseVD(clip=(-5.0, -1.0)), Gaussian(clip=(-5.0, -1.0))):
        posterior = method.posterior(Weight("w", torch.ones(2), Unstructured()))
        log_scale = posterior.get_parameter("log_scale")
        log_scale.data.copy_(torch.tensor([-50.0, 50.0]))
        posterior.guide()
        assert log_scale.tolist() == [-5.0, -1.0]
        kl_of(posterior).backward()
        assert log_scale.grad is not None
        assert bool((log_scale.grad != 0).all())


def test_rules_that_are_no_threshold_on_snr_are_the_papers() -> None:
    def over(method: Method) -> Posterior:
        return method.posterior(Weight("w", torch.ones(2, 3), method.pattern))

    spike = over(SpikeSlab())
    spike.get_parameter("logit").data[0] = -0.1
    assert spike.kept_by_paper().tolist() == [[False] * 3, [True] * 3]
    gate = over(HardConcrete())
    shut = math.log(1 / 11)  # sigmoid(log α) 1.2 − 0.1 = 0 at 1/12
    gate.get_parameter("log_alpha").data[0] = torch.tensor([shut - 0.01, shut + 0.01, 9.0])
    assert gate.kept_by_paper().tolist() == [[False, True, True], [True] * 3]
    scale = over(Horseshoe(mode_threshold=0.5))
    scale.get_parameter("global_loc").data.fill_(0.0)
    scale.get_parameter("global_log_scale").data.fill_(-20.0)
    scale.get_parameter("local_log_scale").data.fill_(0.0)  # the mode is exp(μ − 1)
    scale.get_parameter("local_loc").data = torch.tensor([0.29, 0.32])
    assert scale.kept_by_paper().tolist() == [False, True]
    jeffreys = over(NormalJeffreys(log_alpha_threshold=-1.0))
    jeffreys.get_parameter("log_group").data = torch.tensor([-0.51, -0.49])
    assert jeffreys.kept_by_paper().tolist() == [True, False]
    for method in (Gaussian(), Laplace(), Horseshoe(), NormalJeffreys(), SparseVD(), ARD(), GroupVD()):
        assert over(method).kept_by_paper() is None


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "gaussian prior 0": (lambda: Gaussian(prior=0.0), "prior.*0"),
    "gaussian prior negative": (lambda: Gaussian(prior=-1.0), "prior.*-1"),
    "gaussian prior nan": (lambda: Gaussian(prior=math.nan), "prior.*nan"),
    "gaussian prior infinite": (lambda: Gaussian(prior=math.inf), "prior.*inf"),
    "gaussian clip": (lambda: Gaussian(clip=(1.0, -1.0)), "clip.*1.0, -1.0"),
    "gaussian start": (lambda: Gaussian(init_log_scale=math.nan), "init_log_scale.*nan"),
    "sparse_vd clip": (lambda: SparseVD(clip=(2.0, -10.0)), "clip.*2.0, -10.0"),
    "sparse_vd start": (lambda: SparseVD(init_log_scale=math.nan), "init_log_scale.*nan"),
    "sparse_vd start outside": (lambda: SparseVD(init_log_scale=5.0), "init_log_scale.*5"),
    "spike and slab too sure": (lambda: SpikeSlab(init_inclusion=0.99999), "init_inclusion=0.99999"),
    "spike and slab outside": (lambda: SpikeSlab(inclusion=1.0), r"inclusion is a probability.*1\.0"),
    "hard concrete too open": (lambda: HardConcrete(init_open=0.999999), "init_open=0.999999"),
    "a learned slab of 0": (lambda: SpikeSlab(slab=0.0), "slab > 0 or None"),
    "laplace prior": (lambda: Laplace(prior=0.0), "scale b > 0 or None"),
    "horseshoe mode": (lambda: Horseshoe(mode_threshold=0.0), "mode_threshold"),
    "two scales swapped": (lambda: TwoScales(wide=0.1, narrow=1.0), "wide=0.1.*narrow=1.0"),
    "two scales zero": (lambda: TwoScales(narrow=0.0), "narrow=0.0"),
    "two scales fraction": (lambda: TwoScales(fraction=1.0), "fraction=1.0"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_hyper_parameters_are_errors(what: str) -> None:
    make, words = BAD[what]
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("case", CASES)
def test_a_posterior_says_which_parameters_are_per_entry_and_per_group(case: str) -> None:
    """By a grid whose shape is no other's: what has that shape is said to be per group, and nothing else."""
    weight = Weight("w", torch.randn(6, 5), Channel(1))
    posterior = CASES[case](Channel(1)).posterior(weight)
    by_shape = {(6, 5): "entry", (5,): "group"}
    for leaf, parameter in posterior.named_parameters():
        mask = posterior.mask_of(leaf)
        said = None if mask is None else by_shape[tuple(mask.shape)]
        assert said == by_shape.get(tuple(parameter.shape)), leaf


def test_whether_a_posterior_is_whole_follows_every_way_of_changing_its_mask() -> None:
    weight = Weight("w", torch.randn(2, 2), Unstructured())
    posterior, other = (
        CASES["sparse_vd"](Unstructured()).posterior(weight),
        CASES["sparse_vd"](Unstructured()).posterior(weight),
    )
    assert posterior.whole
    posterior.prune(torch.eye(2, dtype=torch.bool))
    assert not posterior.whole
    other.load_state_dict(posterior.state_dict())
    assert not other.whole
    other.kept.fill_(True)
    assert other.whole
    other.kept = torch.zeros(2, 2, dtype=torch.bool)
    assert not other.whole
    twin = copy.deepcopy(posterior)
    twin.kept[:] = True
    assert twin.whole
    assert not posterior.whole


def test_a_method_written_with_the_last_releases_names_still_works() -> None:
    with pytest.warns(DeprecationWarning) as told:

        class Old(type(SparseVD().posterior(Weight("w", torch.ones(2, 2), Unstructured())))):  # type: ignore[misc]
            rates = {"loc": 2.0}  # noqa: RUF012

            def relevant(self) -> Tensor:
                return self.kept

            def guide(self) -> None:
                self.hold("log_scale", -1.0, 0.0)
                super().guide()

        class OldMethod(Method):
            pattern: Pattern = Unstructured()

            def over(self, weight: Weight) -> Posterior:
                return Old(weight, SparseVD())

        posterior = OldMethod().posterior(Weight("w", torch.ones(2, 2), Unstructured()))
        traced(posterior)
    said = {str(warning.message) for warning in told}
    assert said == {
        "Old.rates is called lr_multipliers now",
        "Old.relevant is called kept_by_paper now",
        "Posterior.hold is called clamp_ now",
        "OldMethod.over is called posterior now",
    }
    assert posterior.lr_multipliers == {"loc": 2.0}
    assert torch.equal(posterior.kept_by_paper(), posterior.kept)
    assert bool((posterior.get_parameter("log_scale") >= -1).all())
    with pytest.warns(DeprecationWarning, match="Method.over is called posterior now"):
        assert isinstance(SparseVD().over(Weight("w", torch.ones(2), Unstructured())), Posterior)
