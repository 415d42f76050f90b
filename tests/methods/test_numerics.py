"""Numbers stay finite: large steps, weights at zero, corners of the clips, bfloat16, widths from 16 to 4,096.

Long fits run in a process of their own that checks no types, all methods at once.
"""

import copy
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from pyro import poutine
from support.elsewhere import Elsewhere
from support.methods import CASES, draw_of, kl_of
from support.modules import MODULES, weights_of
from support.passes import draw_and_run
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.data import digits
from bayesprune.fitting.elbo import MeanFieldELBO
from bayesprune.fitting.history import History
from bayesprune.methods import Posterior
from bayesprune.methods.weight import Weight

PATTERN = bp.Block(4, 1)
OWN = {name: make for name, make in CASES.items() if name != "users_own"}
RANDOM = {name: make for name, make in OWN.items() if name != "deterministic"}
DEFAULTS = [  # the cases whose methods have nothing but their defaults
    *("sparse_vd", "gaussian_learned", "ard", "laplace_learned", "normal_jeffreys", "horseshoe", "hard_concrete"),
    *("spike_slab_learned", "structured_dropout", "group_vd", "group_vd_tied"),
]
every_method = pytest.mark.parametrize("case", OWN)
every_random = pytest.mark.parametrize("case", RANDOM)
slow = pytest.mark.slow

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    with Elsewhere("methods.test_numerics", ACCELERATE_MIXED_PRECISION="no") as other:
        yield other


@cache
def images(n: int = 512) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The first ``n`` training digits, and all that are held out."""
    splits = digits()
    x, y = splits.train.tensors
    held_out_x, held_out_y = (torch.cat(both) for both in zip(splits.val.tensors, splits.test.tensors, strict=True))
    return (x[:n], y[:n]), (held_out_x, held_out_y)


def batches(x: Tensor, y: Tensor, size: int = 64) -> Batches:
    return list(zip(x.split(size), y.split(size), strict=True))


def convolution(case: str, seed: int = 0, **options: Any) -> bp.BayesianNet:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    return bp.BayesianNet(net, {"*.weight": OWN[case](PATTERN)}, **options)


def fit(bnet: bp.BayesianNet, loader: Batches, steps: int, **options: Any) -> History:
    """``steps`` steps, in whole epochs."""
    size = sum(len(y) for _, y in loader)
    wanted = {"epochs": math.ceil(steps / len(loader)), "seed": 1, "progress": False, **options}
    return bp.fit(bp.classify(bnet, size), bnet.guide, loader, **wanted)


@torch.no_grad()
def mistakes(bnet: bp.BayesianNet, x: Tensor, y: Tensor) -> list[bool]:
    """Where the posterior mean is wrong."""
    return (bnet.run(bnet.means(), x).argmax(-1) != y).tolist()


class Finite(bp.Callback):
    """Looks at all parameters after each step, and at the moments after each epoch."""

    def on_step(self, run: bp.Run) -> None:
        for name, parameter in run.bnet.named_parameters():
            assert bool(torch.isfinite(parameter).all()), f"{name} after step {run.step}"

    def on_epoch(self, run: bp.Run) -> None:
        for name, (mean, var) in run.bnet.moments().items():
            assert bool((torch.isfinite(mean) & torch.isfinite(var) & (var >= 0)).all()), f"{name}, step {run.step}"


# --- ten times the default learning rate ------------------------------------------------------------------------------

LARGE = 1e-2
every_length = pytest.mark.parametrize("steps", [80, pytest.param(2000, marks=slow)])


def large_steps(steps: int) -> dict[str, dict[str, Any]]:
    found = {}
    train, held_out = images()
    for case in OWN:
        bnet = convolution(case)
        history = fit(bnet, batches(*train), steps, lr=LARGE, callbacks=[Finite()])
        wrong = mistakes(bnet, *held_out)
        found[case] = {"nll": history.nll, "kl": history.kl, "error": sum(wrong) / len(wrong)}
    return found


@every_length
@every_method
def test_large_steps_stay_finite_and_learn(elsewhere: Elsewhere, case: str, steps: int) -> None:
    found = elsewhere("large_steps", steps)[case]
    assert all(math.isfinite(number) for number in (*found["nll"], *found["kl"]))
    assert found["nll"][-1] < 0.6 * math.log(10)
    assert found["error"] < 0.3  # a guess is wrong in 0.9


def large_regression_steps(steps: int, noise: float) -> dict[str, list[float]]:
    torch.manual_seed(0)
    x = torch.randn(200, 8)
    y = x @ torch.randn(8, 1) + noise * torch.randn(200, 1)
    found = {}
    for case in RANDOM:
        bnet = bp.BayesianNet(nn.Linear(8, 1), {"weight": RANDOM[case](bp.Channel(1))})
        model = bp.regress(bnet, size=200)
        options: dict[str, Any] = {"lr": LARGE, "seed": 0, "progress": False, "callbacks": [Finite()]}
        history = bp.fit(model, bnet.guide, batches(x, y, 100), epochs=steps // 2, **options)
        found[case] = [*history.kl, *history.nll]
    return found


@pytest.mark.parametrize(
    ("noise", "steps"), [(0.5, 80), pytest.param(0.5, 2000, marks=slow), pytest.param(0.0, 2000, marks=slow)]
)
@every_random
def test_large_steps_stay_finite_where_the_noise_is_learned(
    elsewhere: Elsewhere, case: str, noise: float, steps: int
) -> None:
    """Without any noise its scale sinks as long as the fit goes on."""
    found = elsewhere("large_regression_steps", steps, noise)[case]
    assert all(math.isfinite(number) for number in found)
    assert found[-1] < found[len(found) // 2]  # the NLL falls


def from_zero() -> dict[str, tuple[float, float, float]]:
    found = {}
    train, _ = images(128)
    for case in OWN:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        nn.init.zeros_(net[3].weight)
        bnet = bp.BayesianNet(net, {"*.weight": OWN[case](PATTERN)})
        history = fit(bnet, batches(*train), 40, lr=LARGE, warmup=1e4, callbacks=[Finite()])
        found[case] = history.nll[0], history.nll[-1], float(bnet.means()["3.weight"].abs().max())
    return found


@every_method
def test_a_layer_that_starts_at_zero_trains(elsewhere: Elsewhere, case: str) -> None:
    """As the last layer of a residual branch does; log α, SNR and relative noise have no size there."""
    first, last, largest = elsewhere("from_zero")[case]
    assert last < 0.95 * first
    assert largest > 0


# --- clips ------------------------------------------------------------------------------------------------------------

FAR = 1e6
CORNERS = {  # where a leaf's values are taken from; what a guide holds in a range, it brings back there
    "log": [-FAR, -20.0, -1.0, 0.0, 1.0, 20.0, FAR],
    "scale_loc": [-15.0, -1.0, 0.0, 1.0, 10.0],  # locations of log-normal scales, which nothing holds
    "loc": [-100.0, -1.0, -1e-6, 0.0, 1e-6, 1.0, 100.0],
}


def corners(leaf: str) -> Tensor:
    if leaf.startswith("log") or leaf.endswith("log_scale"):
        return torch.tensor(CORNERS["log"])
    return torch.tensor(CORNERS["scale_loc" if leaf in ("local_loc", "global_loc") else "loc"])


@every_method
def test_kl_draws_moments_and_gradients_are_finite_in_every_corner_of_the_clips(case: str) -> None:
    for seed in range(8):
        torch.manual_seed(seed)
        posterior = OWN[case](PATTERN).posterior(Weight("w", torch.randn(8, 12), PATTERN))
        for leaf, parameter in posterior.named_parameters():
            values = corners(leaf)
            parameter.data.copy_(values[torch.randint(len(values), parameter.shape)])
        kl = kl_of(posterior)
        (kl + draw_of(posterior).square().mean()).backward()
        mean, var = posterior.moments()
        gradients = {leaf: p.grad for leaf, p in posterior.named_parameters()}
        for what, tensor in {"kl": kl, "mean": mean, "var": var, **gradients}.items():
            assert tensor is not None, what
            assert bool(torch.isfinite(tensor).all()), (what, seed)
        assert bool((var >= 0).all())


@torch.no_grad()
def held(posterior: Posterior) -> dict[str, tuple[float, float]]:
    """Leaf → the range in which the guide holds it, found by pushing it out."""
    ends: list[dict[str, float]] = []
    for far in (-FAR, FAR):
        twin = copy.deepcopy(posterior)
        for parameter in twin.parameters():
            parameter.fill_(far)
        with poutine.block():
            twin.guide()
        ends.append({leaf: float(p.flatten()[0]) for leaf, p in twin.named_parameters()})
    low, high = ends
    return {leaf: (low[leaf], high[leaf]) for leaf in low if (low[leaf], high[leaf]) != (-FAR, FAR)}


@every_method
def test_what_a_guide_holds_its_methods_docstring_tells(case: str) -> None:
    """A range is an argument, explained under Args, or its two numbers stand there."""
    method = OWN[case](PATTERN)
    words = (type(method).__doc__ or "").replace("−", "-")
    arguments = {value: name for name, value in vars(method).items() if name.startswith("clip")}
    for leaf, (low, high) in held(method.posterior(Weight("w", torch.ones(8, 12), PATTERN))).items():
        name = arguments.get((low, high))
        assert f"{name}:" in words or f"{name}, " in words if name else f"({low:g}, {high:g})" in words, leaf


# --- bfloat16 ---------------------------------------------------------------------------------------------------------


def autocast(enabled: bool = True) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)


def twins(steps: int, seed: int, estimator: str = "local") -> dict[str, dict[str, tuple[float, list[bool]]]]:
    """Method → precision → training NLL of the last epoch, and where the posterior mean errs on held-out digits.

    The same data, start and noise.
    """
    train, held_out = images()
    found: dict[str, dict[str, tuple[float, list[bool]]]] = {}
    for case in OWN if estimator == "local" else ("sparse_vd", "horseshoe"):
        for precision in ("no", "bf16"):
            bnet = convolution(case, seed, estimator=estimator)
            history = fit(bnet, batches(*train), steps, lr=3e-3, seed=seed, autocast=precision)
            found.setdefault(case, {})[precision] = history.nll[-1], mistakes(bnet, *held_out)
    return found


@every_method
def test_bfloat16_trains_as_float32_does(elsewhere: Elsewhere, case: str) -> None:
    """To 3 % in nats, which is finer than errors are: 0.3 points are two of these 539 images."""
    (full, _), (low, _) = elsewhere("twins", 48, 0)[case].values()
    assert low == pytest.approx(full, rel=0.03)


@pytest.mark.parametrize("estimator", ["weight", "flipout"])
@pytest.mark.parametrize("case", ["sparse_vd", "horseshoe"])
def test_bfloat16_trains_with_every_estimator(elsewhere: Elsewhere, case: str, estimator: str) -> None:
    (full, _), (low, _) = elsewhere("twins", 48, 0, estimator)[case].values()
    assert low == pytest.approx(full, rel=0.03)


@slow
@every_method
def test_bfloat16_trains_to_within_0_3_points_of_float32(elsewhere: Elsewhere, case: str) -> None:
    """Up to twice the standard error of the difference, which images that only one of two nets gets wrong make."""
    pairs = [elsewhere("twins", 240, seed)[case] for seed in range(4)]
    worse = [low - full for pair in pairs for full, low in zip(pair["no"][1], pair["bf16"][1], strict=True)]
    standard_error = math.sqrt(sum(d * d for d in worse)) / len(worse)
    assert sum(worse) / len(worse) < 0.003 + 2 * standard_error
    assert standard_error < 0.004


def ways(*names: str) -> list[list[float]]:
    """NLL and KL per epoch, asked for bfloat16 in each of these ways."""
    train, _ = images(128)
    found = []
    for way in names:
        bnet, argument = convolution("sparse_vd"), {"argument": "bf16", "declined": "no"}.get(way.split()[-1])
        with autocast("around" in way):
            history = fit(bnet, batches(*train), 20, autocast=argument)
        found.append([*history.nll, *history.kl])
    return found


def test_bfloat16_is_the_same_whoever_asks_for_it_and_an_argument_wins(elsewhere: Elsewhere) -> None:
    """By argument, by an autocast around the whole fit (whose cache of casts must not go stale), by Accelerate."""
    plain, declined, argument, around = elsewhere("ways", "plain", "around, declined", "argument", "around")
    # Accelerate reads its environment once in a process
    with Elsewhere("methods.test_numerics", ACCELERATE_MIXED_PRECISION="bf16") as accelerates:
        environment, declined_there = accelerates("ways", "environment", "environment, declined")
    assert argument == around == environment
    assert plain == declined == declined_there
    assert plain != argument


@pytest.mark.parametrize("precision", ["fp16", "bfloat16", ""])
def test_an_unknown_precision_is_an_error(precision: str) -> None:
    with pytest.raises(ValueError, match=f"'bf16', 'no' or None, got '{precision}'"):
        fit(convolution("sparse_vd"), batches(*images(64)[0]), 1, autocast=precision)


@every_method
def test_under_autocast_products_are_bfloat16_and_what_is_summed_is_float32(case: str) -> None:
    (x, y), _ = images(64)
    kls = []
    for enabled in (True, False):
        bnet = convolution(case)
        types: list[torch.dtype] = []
        bnet.net[3].register_forward_hook(lambda module, inputs, output, types=types: types.append(output.dtype))
        model, elbo = bp.classify(bnet, 64), MeanFieldELBO()
        with autocast(enabled):
            under_q = poutine.trace(bnet.guide).get_trace(x, y)
            under_p = poutine.trace(poutine.replay(model, trace=under_q)).get_trace(x, y)
            loss = elbo.differentiable_loss(model, bnet.guide, x, y)
        kls.append(elbo.kl)
        assert types == [torch.bfloat16 if enabled else torch.float32] * 2
        assert under_p.nodes["y"]["fn"].log_prob(y).dtype == elbo.kl.dtype == loss.dtype == torch.float32
        loss.backward()
        assert {p.grad.dtype for p in bnet.parameters() if p.grad is not None} == {torch.float32}
    assert torch.equal(*kls)


def learned_noise() -> dict[str, float]:
    torch.manual_seed(0)
    x = torch.randn(400, 4)
    y = x @ torch.tensor([[1.5], [-0.5], [0.0], [0.8]]) + 0.2 * torch.randn(400, 1)
    noises = {}
    for precision in ("no", "bf16"):
        bnet = bp.BayesianNet(nn.Linear(4, 1), {"weight": bp.Gaussian()})
        options: dict[str, Any] = {"lr": 0.03, "seed": 0, "precision": precision, "progress": False}
        bp.fit(bp.regress(bnet, size=400), bnet.guide, batches(x, y, 200), epochs=100, **options)
        noises[precision] = bnet.observation.noise
    return noises


def test_regression_under_bfloat16_learns_the_noise(elsewhere: Elsewhere) -> None:
    noises = elsewhere("learned_noise")
    assert noises["no"] == pytest.approx(0.2, rel=0.15)
    assert noises["bf16"] == pytest.approx(noises["no"], rel=0.05)


@pytest.mark.parametrize("estimator", ["local", "weight", "flipout"])
@pytest.mark.parametrize("name", MODULES)
def test_a_module_under_autocast_draws_what_it_draws_in_float32(name: str, estimator: str) -> None:
    """The result has the type that the module itself gives; values and gradients agree to bfloat16's digits."""
    make, inputs, _ = MODULES[name]
    outcomes: list[tuple[Tensor, Tensor]] = []
    for enabled in (True, False):
        torch.manual_seed(0)
        net = make()
        bnet = bp.BayesianNet(net, weights_of(net), estimator=estimator)
        with autocast(enabled):
            own = net(*inputs)
            draw_and_run(bnet, *inputs)  # counts uses
            output = draw_and_run(bnet, *inputs)
        assert output.dtype == own.dtype
        output.float().sin().sum().backward()
        outcomes.append((output.detach().float(), torch.cat([p.grad.flatten() for p in bnet.parameters()])))
    for low, full in zip(*outcomes, strict=True):
        assert float((low - full).norm()) < 0.03 * float(full.norm())


# --- widths -----------------------------------------------------------------------------------------------------------

WIDTHS = (16, 64, 256, 1024, 4096)


@cache
def teacher() -> tuple[Tensor, Tensor]:
    """2,000 examples of a small net: 32 inputs, 10 classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 32, generator=generator)
    hidden = (x @ torch.randn(32, 20, generator=generator)).relu()
    return x, (hidden @ torch.randn(20, 10, generator=generator)).argmax(-1)


def wide(width: int, trained: bool) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 10))
    if trained:
        bnet = bp.BayesianNet(net, {})
        fit(bnet, batches(*teacher(), size=100), 200)
        net.load_state_dict(bnet.means())
    return net


@torch.no_grad()
def nll_and_noise(bnet: bp.BayesianNet) -> tuple[float, float]:
    """The NLL at draws, and the outputs' standard deviation over draws relative to that over examples."""
    x, y = (t[:500] for t in teacher())
    outputs = torch.stack([bnet.eval().run(bnet.draw(), x) for _ in range(10)])
    noise, signal = outputs.var(0).mean().sqrt(), bnet.run(bnet.means(), x).var(0).mean().sqrt()
    nll = nn.functional.cross_entropy(outputs.flatten(0, 1), y.repeat(10))
    return float(nll), float(noise / signal)


def sds(bnet: bp.BayesianNet) -> list[float]:
    """The median posterior standard deviation of each weight."""
    return [float(var.sqrt().median()) for _, var in bnet.moments().values()]


def at_clips(bnet: bp.BayesianNet) -> float:
    """The largest share of a leaf's log scales that stands within 0.1 of an end of its clip."""
    shares = [0.0]
    for posterior in bnet.posteriors.values():
        for leaf, (low, high) in held(posterior).items():
            if "scale" in leaf or leaf == "log_group":
                values = posterior.get_parameter(leaf)
                shares.append(float(((values < low + 0.1) | (values > high - 0.1)).double().mean()))
    return max(shares)


def spreads(width: int, trained: bool, steps: int) -> dict[str, dict[str, Any]]:
    net = wide(width, trained)
    with torch.no_grad():
        x, y = (t[:500] for t in teacher())
        dense = float(nn.functional.cross_entropy(net(x), y))
    found = {}
    for case in DEFAULTS:
        torch.manual_seed(0)
        bnet = bp.BayesianNet(net, {"*.weight": OWN[case](PATTERN)})
        (nll, noise), before = nll_and_noise(bnet), sds(bnet)
        history = fit(bnet, batches(*teacher(), size=200), steps)
        bounds = [2000 * nll + kl for nll, kl in zip(history.nll, history.kl, strict=True)]
        start = {"nll": nll - dense, "noise": noise, "sds": before}
        found[case] = {"start": start, "sds": sds(bnet), "at clips": at_clips(bnet), "bounds": bounds}
    return found


@pytest.mark.parametrize(
    ("width", "trained", "steps"),
    [(16, False, 20), (4096, False, 20), *(pytest.param(w, t, 200, marks=slow) for w in WIDTHS for t in (False, True))],
)
@pytest.mark.parametrize("case", DEFAULTS)
def test_at_the_default_start_sigma_neither_collapses_nor_explodes(
    elsewhere: Elsewhere, case: str, width: int, trained: bool, steps: int
) -> None:
    found = elsewhere("spreads", width, trained, steps)[case]
    assert found["start"]["nll"] < 0.25  # nats per example that the first draws cost
    assert found["at clips"] == 0
    for before, after in zip(found["start"]["sds"], found["sds"], strict=True):
        assert 1e-4 < before < 0.1
        assert before / 4 < after < 0.15
    assert found["bounds"][-1] < found["bounds"][0]
