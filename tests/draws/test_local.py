"""The table of local functions: every way of sampling has the moments of the weight draw, and says where it differs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.draws.gaussian import Estimator, GaussianDraw, sampled, sampling
from bayesprune.draws.local import COMPOSITE, LOCAL

ESTIMATORS: tuple[Estimator, ...] = ("local", "weight", "flipout")
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
DRAWS = 4_000


def fixed(*shape: int, phase: float = 0.3) -> Tensor:
    """Numbers of both signs, the same in every run."""
    return 1.5 * torch.sin(1.7 * torch.arange(math.prod(shape), dtype=torch.float64) + phase).reshape(shape)


@dataclass(frozen=True)
class Call:
    """A call of a local function on lazy weights of these shapes, and whether it is taken locally."""

    function: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]

    def locs(self) -> list[Tensor]:
        return [fixed(*shape, phase=0.9 + i) for i, shape in enumerate(self.shapes)]

    def variances(self) -> list[Tensor]:
        return [0.1 + fixed(*shape, phase=2.1 + i).square() for i, shape in enumerate(self.shapes)]


def call(function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> Call:
    return Call(function, shapes)


X = fixed(3, 4)
BIAS = fixed(2)
TOKENS = fixed(2, 3, 4)
LINE, PLANE, CUBE = fixed(2, 4, 5), fixed(2, 4, 4, 3), fixed(2, 4, 3, 3, 2)

LINEAR = {
    "linear": call(lambda w: F.linear(X, w), (2, 4)),
    "linear, bias": call(lambda w: F.linear(X, w, BIAS), (2, 4)),
    "linear, lazy bias": call(lambda w, b: F.linear(X, w, b), (2, 4), (2,)),
    "linear, keywords": call(lambda w, b: F.linear(bias=b, weight=w, input=X), (2, 4), (2,)),
    "linear, one keyword": call(lambda w: F.linear(X, weight=w), (2, 4)),
    "linear, one example": call(lambda w, b: F.linear(X[0], w, b), (2, 4), (2,)),
    "linear, tokens": call(lambda w, b: F.linear(TOKENS, w, b), (2, 4), (2,)),
}
CONVOLUTIONS = {
    "conv1d": call(lambda w: F.conv1d(LINE, w), (2, 4, 2)),
    "conv1d, lazy bias": call(lambda w, b: F.conv1d(LINE, w, b, 2, 1), (2, 4, 3), (2,)),
    "conv1d, depthwise": call(lambda w: F.conv1d(LINE, w, groups=4), (4, 1, 3)),
    "conv1d, unbatched": call(lambda w, b: F.conv1d(LINE[0], w, b, dilation=2), (2, 4, 2), (2,)),
    "conv2d": call(lambda w, b: F.conv2d(PLANE, w, b, stride=(2, 1), padding=(1, 0)), (2, 4, 2, 2), (2,)),
    "conv2d, same": call(lambda w: F.conv2d(PLANE, w, BIAS, padding="same"), (2, 4, 3, 1)),
    "conv2d, keywords": call(lambda w, b: F.conv2d(weight=w, bias=b, input=PLANE, groups=2), (2, 2, 2, 2), (2,)),
    "conv2d, unbatched": call(lambda w: F.conv2d(PLANE[0], w), (2, 4, 2, 2)),
    "conv3d": call(lambda w: F.conv3d(CUBE, w, BIAS), (2, 4, 2, 2, 1)),
    "conv3d, everything": call(
        lambda w, b: F.conv3d(CUBE, w, b, stride=2, padding=1, dilation=(1, 2, 1), groups=2), (2, 2, 2, 2, 2), (2,)
    ),
    "conv3d, unbatched": call(lambda w: F.conv3d(CUBE[0], w), (1, 4, 2, 2, 2)),
    "conv_transpose1d": call(lambda w: F.conv_transpose1d(LINE, w), (4, 2, 2)),
    "conv_transpose1d, everything": call(
        lambda w, b: F.conv_transpose1d(LINE, w, b, stride=3, padding=1, output_padding=1, groups=2, dilation=2),
        (4, 1, 2),
        (2,),
    ),
    "conv_transpose1d, unbatched": call(lambda w: F.conv_transpose1d(LINE[0], w), (4, 2, 2)),
    "conv_transpose2d": call(lambda w, b: F.conv_transpose2d(PLANE, w, b), (4, 2, 2, 2), (2,)),
    "conv_transpose2d, positional": call(
        lambda w, b: F.conv_transpose2d(PLANE, w, b, 2, 1, 1, 2, 1), (4, 1, 2, 2), (2,)
    ),
    "conv_transpose2d, unbatched": call(lambda w: F.conv_transpose2d(PLANE[0], w, BIAS), (4, 2, 2, 2)),
    "conv_transpose3d": call(lambda w, b: F.conv_transpose3d(CUBE, w, b, stride=2), (4, 1, 2, 1, 2), (1,)),
    "conv_transpose3d, groups": call(
        lambda w: F.conv_transpose3d(CUBE, w, padding=1, dilation=2, groups=2), (4, 1, 2, 2, 2)
    ),
}
PRODUCTS = {
    "x @ w": call(lambda w: X @ w, (4, 2)),
    "w @ x": call(lambda w: w @ X, (2, 3)),
    "matmul": call(lambda w: torch.matmul(X, w), (4, 2)),
    "matmul, swapped": call(lambda w: torch.matmul(w, X), (2, 3)),
    "matmul, keywords": call(lambda w: torch.matmul(input=X, other=w), (4, 2)),
    "matmul, keywords, swapped": call(lambda w: torch.matmul(other=X, input=w), (2, 3)),
    "Tensor.matmul": call(lambda w: X.matmul(w), (4, 2)),
    "Tensor.matmul of the draw": call(lambda w: w.matmul(X), (2, 3)),
    "Tensor.__rmatmul__": call(lambda w: torch.Tensor.__rmatmul__(w, X), (4, 2)),
    "Tensor.__rmatmul__, swapped": call(lambda w: torch.Tensor.__rmatmul__(X, w), (2, 3)),
    "vector @ w": call(lambda w: X[0] @ w, (4, 2)),
    "w @ vector": call(lambda w: w @ X[0], (2, 4)),
    "x @ vector": call(lambda w: X @ w, (4,)),
    "vector of draws @ x": call(lambda w: w @ X, (3,)),
    "vector @ vector": call(lambda w: X[0] @ w, (4,)),
    "tokens @ w": call(lambda w: TOKENS @ w, (4, 2)),
    "w @ tokens": call(lambda w: w @ TOKENS, (2, 3)),
    "stack of draws @ tokens": call(lambda w: w @ TOKENS, (2, 2, 3)),
    "tokens @ stack of draws": call(lambda w: TOKENS @ w, (2, 4, 2)),
    "x @ stack of draws": call(lambda w: X @ w, (2, 4, 2)),
    "mm": call(lambda w: torch.mm(X, w), (4, 2)),
    "mm, keywords": call(lambda w: torch.mm(X, mat2=w), (4, 2)),
    "mm, all keywords": call(lambda w: torch.mm(mat2=w, input=X), (4, 2)),
    "Tensor.mm": call(lambda w: X.mm(w), (4, 2)),
    "Tensor.mm of the draw": call(lambda w: w.mm(X), (2, 3)),
    "bmm": call(lambda w: torch.bmm(TOKENS, w), (2, 4, 2)),
    "bmm, swapped": call(lambda w: torch.bmm(w, TOKENS), (2, 2, 3)),
    "Tensor.bmm": call(lambda w: TOKENS.bmm(w), (2, 4, 2)),
    "addmm": call(lambda w: torch.addmm(BIAS, X, w), (4, 2)),
    "addmm, lazy bias": call(lambda b, w: torch.addmm(b, X, w), (2,), (4, 2)),
    "addmm, factors": call(lambda b, w: torch.addmm(b, X, w, beta=-0.5, alpha=3), (2,), (4, 2)),
    "addmm, factors, plain bias": call(lambda w: torch.addmm(BIAS, X, w, beta=2, alpha=0.5), (4, 2)),
    "addmm, beta 0": call(lambda b, w: torch.addmm(b, X, w, beta=0), (2,), (4, 2)),
    "addmm, swapped": call(lambda b, w: torch.addmm(b, w, X, alpha=2), (4,), (2, 3)),
    "addmm, keywords": call(lambda b, w: torch.addmm(mat2=w, mat1=X, input=b, alpha=2), (2,), (4, 2)),
    "Tensor.addmm": call(lambda w: BIAS.addmm(X, w, beta=2), (4, 2)),
    "Tensor.addmm of the draw": call(lambda b, w: b.addmm(X, w, alpha=2), (3, 2), (4, 2)),
}
CALLS = {**LINEAR, **CONVOLUTIONS, **PRODUCTS}
every_call = pytest.mark.parametrize("name", CALLS)


def run(what: Call, estimator: Estimator, locs: list[Tensor], variances: list[Tensor]) -> Tensor:
    draws = [GaussianDraw(loc, var) for loc, var in zip(locs, variances, strict=True)]
    with sampling([(draw, estimator) for draw in draws]):
        return what.function(*draws)


def many(what: Call, estimator: Estimator, n: int = DRAWS) -> Tensor:
    """``n`` independent forward passes, each with noise of its own, along a first axis."""
    locs, variances = what.locs(), what.variances()
    one = torch.func.vmap(lambda _: run(what, estimator, locs, variances), randomness="different")
    return one(torch.zeros(n))


def jacobian(what: Call) -> tuple[Tensor, Tensor]:
    """The slope of the flattened result in all weights' entries together, and those entries' variances."""
    parts = torch.autograd.functional.jacobian(what.function, tuple(what.locs()))
    size = what.function(*what.locs()).numel()
    return torch.cat([p.reshape(size, -1) for p in parts], 1), torch.cat([v.flatten() for v in what.variances()])


def moments(what: Call) -> tuple[Tensor, Tensor]:
    """Mean and variance of the result under weight draws: a linear function's, from its Jacobian."""
    result = what.function(*what.locs())
    slope, var = jacobian(what)
    return result, (slope.square() @ var).reshape(result.shape)


def assert_moments(draws: Tensor, mean: Tensor, var: Tensor) -> None:
    """Gaussian draws (first axis) have this mean and variance, within 5 standard errors each."""
    n = len(draws)
    assert float(((draws.mean(0) - mean).abs() / (var / n).sqrt().clamp_min(1e-12)).max()) < 5
    assert float(((draws.var(0) - var).abs() / (var * math.sqrt(2 / (n - 1))).clamp_min(1e-12)).max()) < 5


def test_every_function_of_the_table_is_called_below(monkeypatch):
    read: set[object] = set()

    class Recorder(dict):
        def __getitem__(self, function):
            read.add(function)
            return super().__getitem__(function)

    monkeypatch.setattr("bayesprune.draws.gaussian.LOCAL", Recorder(LOCAL))
    for what in CALLS.values():
        run(what, "local", what.locs(), what.variances())
    assert read == set(LOCAL) - {torch.Tensor.__matmul__}  # torch 2.13 announces @ as Tensor.matmul


@every_call
@every_estimator
def test_each_output_element_has_the_weight_draws_mean_and_variance(name, estimator):
    torch.manual_seed(0)
    assert_moments(many(CALLS[name], estimator), *moments(CALLS[name]))


@every_call
def test_a_local_draw_is_its_mean_plus_its_standard_deviation_times_the_noise(name, monkeypatch):
    what = CALLS[name]
    locs, variances = what.locs(), what.variances()
    mean, var = moments(what)
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    torch.testing.assert_close(run(what, "local", locs, variances), mean)
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    torch.testing.assert_close(run(what, "local", locs, variances), mean + var.sqrt())


@every_call
@every_estimator
def test_a_draw_without_variance_gives_the_function_itself_and_gradients_without_nan(name, estimator):
    what = CALLS[name]
    locs = [loc.requires_grad_() for loc in what.locs()]
    variances = [torch.zeros_like(v).requires_grad_() for v in what.variances()]
    result = run(what, estimator, locs, variances)
    torch.testing.assert_close(result, what.function(*what.locs()))
    result.square().sum().backward()
    expected = torch.autograd.grad(what.function(*locs).square().sum(), locs)
    for loc, var, slope in zip(locs, variances, expected, strict=True):
        torch.testing.assert_close(loc.grad, slope)
        assert bool(torch.isfinite(var.grad).all())


@every_call
def test_every_lazy_argument_is_sampled_through_the_activations(name):
    what = CALLS[name]
    draws = [GaussianDraw(loc, var) for loc, var in zip(what.locs(), what.variances(), strict=True)]
    with sampling([(draw, "local") for draw in draws]):
        what.function(*draws)
    assert all(sampled(draw) for draw in draws)


@pytest.mark.parametrize("name", ["linear, lazy bias", "conv2d", "addmm, factors"])
def test_a_bias_that_is_drawn_plainly_adds_its_own_draw_to_every_row(name):
    what = CALLS[name]
    bias = min(range(2), key=lambda i: len(what.shapes[i]))
    draws = [GaussianDraw(loc, var) for loc, var in zip(what.locs(), what.variances(), strict=True)]
    estimators: list[Estimator] = ["weight" if i == bias else "local" for i in range(2)]
    with pytest.MonkeyPatch.context() as patch, sampling(zip(draws, estimators, strict=True)):
        value = draws[bias].value()
        patch.setattr(torch, "randn_like", torch.zeros_like)
        result = what.function(*draws)
    expected = what.locs()
    expected[bias] = value
    torch.testing.assert_close(result, what.function(*expected))
    assert not sampled(draws[bias])


# --- gradients ----------------------------------------------------------------------------------------------------


def expected_loss(loc: Tensor, log_scale: Tensor) -> Tensor:
    """E Σ relu(out)² in closed form, out Gaussian element by element."""
    mean, var = F.linear(X, loc), F.linear(X.square(), (2 * log_scale).exp())
    t = mean / var.sqrt()
    return (
        (mean.square() + var) * torch.special.ndtr(t) + mean * (var / (2 * math.pi)).sqrt() * (-t * t / 2).exp()
    ).sum()


@every_estimator
def test_gradients_of_a_nonlinear_loss_are_unbiased_for_a_matrix_product(estimator):
    torch.manual_seed(1)
    loc, log_scale = fixed(2, 4), 0.3 * fixed(2, 4, phase=2.0)

    def loss(loc: Tensor, log_scale: Tensor) -> Tensor:
        w = GaussianDraw(loc, (2 * log_scale).exp())
        with sampling([(w, estimator)]):
            return F.linear(X, w).relu().square().sum()

    slopes = torch.func.grad(loss, argnums=(0, 1))
    found = torch.func.vmap(lambda _: slopes(loc, log_scale), randomness="different")(torch.zeros(DRAWS))
    expected = torch.func.grad(expected_loss, argnums=(0, 1))(loc, log_scale)
    for draws, mean in zip(found, expected, strict=True):
        error = draws.std(0) / math.sqrt(DRAWS)
        assert float(((draws.mean(0) - mean).abs() / error).max()) < 5


def test_local_draws_have_gradients_of_less_variance_than_weight_draws():
    torch.manual_seed(2)
    x = torch.randn(64, 8)

    def slope(log_scale: Tensor, estimator: Estimator) -> Tensor:
        def loss(log_scale: Tensor) -> Tensor:
            w = GaussianDraw(torch.zeros(4, 8), (2 * log_scale).exp())
            with sampling([(w, estimator)]):
                return F.linear(x, w).square().mean()

        return torch.func.grad(loss)(log_scale)

    spread = {}
    for estimator in ESTIMATORS:
        each = torch.func.vmap(lambda _, e=estimator: slope(torch.zeros(4, 8), e), randomness="different")
        spread[estimator] = float(each(torch.zeros(2000)).var(0).mean())
    assert spread["local"] < 0.2 * spread["weight"]


# --- where the estimators differ: what two outputs have in common ---------------------------------------------------

SHARED = {
    "convolution positions": call(lambda w: F.conv1d(LINE[:, :2, :4], w), (2, 2, 2)),
    "tokens": call(lambda w: F.linear(TOKENS[..., :3], w), (2, 3)),
    "rows of a matrix": call(lambda w: F.linear(X[:, :3], w), (2, 3)),
}


@pytest.mark.parametrize("name", SHARED)
@every_estimator
def test_covariances_between_outputs_are_as_documented(name, estimator):
    """Weight draws keep them all, flipout those within an example, local draws none."""
    torch.manual_seed(3)
    what = SHARED[name]
    slope, var = jacobian(what)
    full = slope @ var.diag() @ slope.T
    shape = what.function(*what.locs()).shape
    example = torch.arange(shape[0]).repeat_interleave(shape.numel() // shape[0])
    same = example[:, None] == example
    shown = {"weight": full, "flipout": full * same, "local": full.diag().diag()}[estimator]
    if len(shape) > 2:
        assert float((full - full.diag().diag())[same].abs().max()) > 0.5  # there is something to leave out
    draws = many(what, estimator).flatten(1)
    scale = full.diag()
    error = ((scale[:, None] * scale + full.square()) / DRAWS).sqrt()
    assert float(((draws.T.cov() - shown).abs() / error).max()) < 5


def flipout_noise(x: Tensor, *shape: int) -> tuple[Tensor, Tensor]:
    """What flipout adds to the mean for inputs ``x``, and the one weight draw it flips."""
    w = GaussianDraw(fixed(*shape), 0.1 + fixed(*shape).square())
    with sampling([(w, "flipout")]):
        noise = F.linear(x, w) - F.linear(x, w.loc)
    return noise, w.value() - w.loc


def test_flipout_flips_one_draw_and_no_more():
    x = torch.zeros(3, 4, dtype=torch.float64)
    x[torch.arange(3), torch.arange(3)] = 1.0  # each example sees one column
    noise, delta = flipout_noise(x, 2, 4)
    torch.testing.assert_close(noise.abs(), delta[:, :3].T.abs())


def test_flipout_flips_each_output_of_each_example_by_a_coin_of_its_own():
    torch.manual_seed(5)
    noise, _ = flipout_noise(torch.ones(2, 1, dtype=torch.float64), 1000, 1)
    assert abs(int((noise[0] * noise[1] > 0).sum()) - 500) < 5 * math.sqrt(250)


def test_flipout_flips_each_input_of_each_example_by_a_coin_of_its_own():
    torch.manual_seed(6)
    noise, delta = flipout_noise(torch.ones(1000, 2, dtype=torch.float64), 1, 2)
    together = torch.isclose(noise.abs(), delta.sum(1).abs())
    apart = torch.isclose(noise.abs(), (delta[:, 0] - delta[:, 1]).abs())
    assert bool((together ^ apart).all())
    assert abs(int(together.sum()) - 500) < 5 * math.sqrt(250)


# --- what is opened, and what is not sampled ------------------------------------------------------------------------


def test_composite_functions_give_torchs_own_numbers():
    torch.manual_seed(4)
    x, width = torch.randn(5, 2, 8), 8
    module = torch.nn.MultiheadAttention(width, 2)
    args = (x, x, x, width, 2, module.in_proj_weight, module.in_proj_bias, None, None, False, 0.0)
    args = (*args, module.out_proj.weight, module.out_proj.bias)
    opened = COMPOSITE[F.multi_head_attention_forward](*args)
    for ours, torchs in zip(opened, F.multi_head_attention_forward(*args), strict=True):
        assert torch.equal(ours, torchs)


def test_an_input_that_is_a_draw_itself_is_drawn_plainly():
    a, b = (GaussianDraw(fixed(3, 3, phase=p), torch.ones(3, 3, dtype=torch.float64)) for p in (0.1, 0.2))
    with sampling([(a, "local"), (b, "local")]):
        result = a @ b
    torch.testing.assert_close(result, a.value() @ b.value())
    assert not sampled(a)
    assert not sampled(b)


def test_a_lazy_bias_beside_a_plain_weight_is_drawn_plainly():
    b = GaussianDraw(fixed(2), torch.ones(2, dtype=torch.float64))
    with sampling([(b, "local")]):
        result = F.linear(X, fixed(2, 4), b)
    torch.testing.assert_close(result, F.linear(X, fixed(2, 4), b.value()))
