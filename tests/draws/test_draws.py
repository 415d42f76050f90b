"""A lazy Gaussian draw: what keeps it Gaussian, what draws it, and that no gradient is lost on the way."""

import warnings
from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.distributions import LazyNormal
from bayesprune.draws.gaussian import GaussianDraw, SecondUseError, plain, sampled, sampling, uses

C = torch.linspace(0.5, 2.0, 6, dtype=torch.float64).reshape(2, 3)

# what leaves a 2 × 3 draw Gaussian
AFFINE: dict[str, Callable[[Tensor], Tensor]] = {
    "T": lambda w: w.T,
    "mT": lambda w: w.mT,
    "t": lambda w: w.t(),
    "transpose": lambda w: w.transpose(0, 1),
    "torch.transpose": lambda w: torch.transpose(w, -1, 0),
    "permute": lambda w: w.permute(1, 0),
    "torch.permute": lambda w: torch.permute(w, (1, 0)),
    "swapaxes": lambda w: w.swapaxes(0, 1),
    "movedim": lambda w: torch.movedim(w, 0, 1),
    "reshape": lambda w: w.reshape(3, 2),
    "reshape, inferred": lambda w: torch.reshape(w, (-1,)),
    "view": lambda w: w.view(6),
    "flatten": lambda w: w.flatten(),
    "torch.flatten": lambda w: torch.flatten(w),
    "unflatten": lambda w: w.unflatten(1, (3, 1)),
    "unsqueeze": lambda w: w.unsqueeze(1),
    "squeeze": lambda w: w.unsqueeze(0).squeeze(0),
    "row": lambda w: w[0],
    "entry": lambda w: w[1, -1],
    "slice": lambda w: w[:, 1:],
    "step": lambda w: w[..., ::2],
    "new axis": lambda w: w[None, 1],
    "narrow": lambda w: w.narrow(1, 0, 2),
    "select": lambda w: torch.select(w, 0, 1),
    "contiguous": lambda w: w.T.contiguous(),
    "clone": lambda w: w.clone(),
    "times a number": lambda w: w * 3,
    "a number times": lambda w: -2.5 * w,
    "times a tensor": lambda w: w * C,
    "a tensor times": lambda w: C * w,
    "times a row": lambda w: w * C[0],
    "times a scalar tensor": lambda w: torch.mul(w, C[0, 0]),
    "times a mask": lambda w: w * (C > 1),
    "over a number": lambda w: w / 4,
    "over a tensor": lambda w: torch.div(w, C),
    "minus": lambda w: -w,
    "neg": lambda w: w.neg(),
    "plus a number": lambda w: w + 1,
    "a tensor plus": lambda w: C + w,
    "minus a tensor": lambda w: w - C,
    "a number minus": lambda w: 1 - w,
    "a tensor minus": lambda w: torch.sub(C, w),
    "float": lambda w: w.float(),
    "to": lambda w: w.to(torch.float32),
    "to, keyword": lambda w: w.to(dtype=torch.float32),
    "type_as": lambda w: w.type_as(torch.zeros((), dtype=torch.float32)),
    "to the cpu": lambda w: w.cpu(),
    "all together": lambda w: (1 - (2 * w.T + C.T)[1:] / 3).reshape(-1)[::2],
}
# what does not
DRAWN: dict[str, Callable[[Tensor], Tensor]] = {
    "broadcast by a product": lambda w: w * torch.ones(4, 2, 3, dtype=torch.float64),
    "broadcast by a sum": lambda w: w[:, :1] + C,
    "expand": lambda w: w.expand(4, 2, 3),
    "index list": lambda w: w[[0, 0, 1]],
    "index tensor": lambda w: w[torch.tensor([1, 1])],
    "mask": lambda w: w[C > 1],
    "bool index": lambda w: w[True],
    "index_select": lambda w: w.index_select(1, torch.tensor([0, 0])),
    "gather": lambda w: w.gather(1, torch.zeros(2, 1, dtype=torch.int64)),
    "one over": lambda w: 1 / w,
    "tensor over": lambda w: torch.div(C, w),
    "reciprocal": lambda w: w.reciprocal(),
    "square": lambda w: w * w,
    "power": lambda w: w**2,
    "twice itself": lambda w: w + w,
    "itself minus itself": lambda w: w - w,
    "itself over itself": lambda w: w / w,
    "plus with alpha": lambda w: torch.add(w, C, alpha=2),
    "relu": lambda w: w.relu(),
    "sum": lambda w: w.sum(0),
    "norm": lambda w: w.norm(),
    "cat": lambda w: torch.cat([w, w]),
    "stack with a tensor": lambda w: torch.stack([C, w]),
    "chunk": lambda w: w.chunk(3, 1)[1],
    "where": lambda w: torch.where(C > 1, w, C),
    "einsum": lambda w: torch.einsum("ij,kj->ik", w, C),
    "embedding": lambda w: F.embedding(torch.tensor([[0, 1, 1]]), w),
    "promoted": lambda w: w.float() * C,
    "keyword input": lambda w: torch.flatten(input=w),
    "bits": lambda w: w.view(torch.int64),
    "bits as floats": lambda w: w.view(torch.float32),
    "integers": lambda w: w.to(torch.int64),
    "detach": lambda w: w.detach(),
}


def leaves(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    loc = torch.randn(2, 3, dtype=dtype).requires_grad_()
    return loc, (0.2 + torch.rand(2, 3, dtype=dtype)).requires_grad_()


def jacobian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    slope = torch.autograd.functional.jacobian(function, at.detach())
    return slope.reshape(-1, at.numel()).double()


@pytest.mark.parametrize("name", AFFINE)
def test_what_is_affine_leaves_a_draw_gaussian_with_its_own_moments(name):
    function = AFFINE[name]
    loc, var = leaves()
    result = function(GaussianDraw(loc, var))
    assert type(result) is GaussianDraw
    torch.testing.assert_close(result.loc, function(loc), rtol=0, atol=0)
    slope = jacobian(function, loc)
    assert int((slope != 0).sum(0).max()) <= 1  # no entry stands in two places: what is drawn stays independent
    torch.testing.assert_close(result.var.double().flatten(), slope.square() @ var.flatten(), rtol=1e-6, atol=0)
    assert (result.shape, result.dtype) == (function(loc).shape, function(loc).dtype)


@pytest.mark.parametrize("name", AFFINE)
def test_a_view_of_a_draw_shows_the_numbers_of_the_draw(name):
    function = AFFINE[name]
    w = GaussianDraw(*leaves())
    before = function(w)
    shown = before.value()
    assert type(shown) is Tensor
    assert torch.equal(shown, function(w.value()))
    assert torch.equal(function(w).value(), shown)
    assert torch.equal(before.exp(), function(w.value()).exp())


@pytest.mark.parametrize("name", AFFINE)
def test_gradients_reach_mean_and_variance_through_a_view(name):
    function = AFFINE[name]
    loc, var = leaves()
    w = GaussianDraw(loc, var)
    (function(w).exp() * 0.3).sum().backward()
    noise = ((w.value() - loc) / var.sqrt()).detach()
    a, b = loc.detach().clone().requires_grad_(), var.detach().clone().requires_grad_()
    (function(a + b.sqrt() * noise).exp() * 0.3).sum().backward()
    torch.testing.assert_close(loc.grad, a.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(var.grad, b.grad, rtol=1e-5, atol=1e-7)
    assert float(loc.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", AFFINE)
def test_a_local_draw_through_a_view_has_the_views_moments(name, monkeypatch):
    function = AFFINE[name]
    loc, var = leaves()
    x = torch.linspace(-1, 1, function(loc).numel(), dtype=function(loc).dtype)

    def through(w: Tensor) -> Tensor:
        return function(w).reshape(1, -1) @ x

    w = GaussianDraw(loc, var)
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    with sampling([(w, "local")]):
        result = through(w)
    assert sampled(w)
    spread = (jacobian(through, loc).square() @ var.flatten()).sqrt()
    torch.testing.assert_close(result.double(), through(loc).double() + spread, rtol=1e-5, atol=1e-6)
    slopes = torch.autograd.grad(result.sum(), (loc, var))
    expected = torch.autograd.grad(through(loc).double().sum() + spread.sum(), (loc, var))
    torch.testing.assert_close(slopes, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DRAWN)
def test_any_other_function_sees_one_remembered_draw(name):
    function = DRAWN[name]
    w = GaussianDraw(*leaves())
    first, second = function(w), function(w)
    assert type(first) is Tensor
    assert torch.equal(first, second)
    assert torch.equal(first, function(w.value()))


def test_two_draws_meet_in_their_remembered_numbers():
    a, b = (GaussianDraw(*leaves()) for _ in range(2))
    for function in (torch.add, torch.sub, torch.mul, torch.div):
        assert type(function(a, b)) is Tensor
        assert torch.equal(function(a, b), function(a.value(), b.value()))
    assert not torch.equal(a.value(), b.value())


def test_a_draw_has_the_moments_it_carries():
    torch.manual_seed(0)
    loc, var = (t.detach() for t in leaves())
    n = 5_000
    w = GaussianDraw(loc.expand(n, 2, 3), var.expand(n, 2, 3)).value()
    assert float(((w.mean(0) - loc) / (var / n).sqrt()).abs().max()) < 5
    assert float(((w.var(0) - var) / (var * (2 / n) ** 0.5)).abs().max()) < 5


def test_a_constant_that_is_trained_gets_its_gradient_through_mean_and_variance(monkeypatch):
    loc, var = leaves()
    gain = C.clone().requires_grad_()
    x = torch.ones(3, dtype=torch.float64)
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    w = GaussianDraw(loc, var)
    with sampling([(w, "local")]):
        slope = torch.autograd.grad(((w * gain) @ x).sum(), gain)
    expected = torch.autograd.grad(((loc * gain) @ x + (var * gain.square()).sum(1).sqrt()).sum(), gain)
    torch.testing.assert_close(slope, expected)


def test_a_first_look_without_gradients_does_not_cost_the_gradients():
    loc, var = leaves()
    w = GaussianDraw(loc, var)
    with torch.no_grad():
        length = w.norm()
    assert not length.requires_grad
    (w.exp().sum() / length).backward()
    assert bool((loc.grad != 0).all())
    assert bool((var.grad != 0).all())


def test_where_the_variance_is_zero_its_gradient_is_no_nan():
    for function in (lambda w: w.exp(), lambda w: w @ C.T):
        for estimator in ("weight", "local", "flipout"):
            loc = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
            scale = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
            w = GaussianDraw(loc, scale.square())
            with sampling([(w, estimator)]):
                function(w).sum().backward()
            assert bool(torch.isfinite(scale.grad).all())
            assert bool((loc.grad != 0).all())


def test_looking_at_a_draws_properties_does_not_draw_it():
    w = GaussianDraw(*leaves())
    state = torch.get_rng_state()
    assert (w.shape, w.size(0), w.dim(), w.ndim, w.numel(), len(w)) == (torch.Size((2, 3)), 2, 2, 2, 6, 2)
    assert (w.dtype, w.device, w.requires_grad, w.is_floating_point()) == (torch.float64, C.device, True, True)
    assert not w.is_cuda
    assert "GaussianDraw(shape=(2, 3)" in repr(w)
    assert torch.equal(torch.get_rng_state(), state)


def test_outside_a_pass_every_product_sees_the_same_weight():
    w = GaussianDraw(*leaves())
    x = torch.ones(3, dtype=torch.float64)
    assert torch.equal(w @ x, w @ x)
    assert torch.equal(w @ x, w.value() @ x)
    assert not sampled(w)


def test_a_pass_counts_uses_and_refuses_the_second_of_a_sampled_weight():
    x = torch.ones(3, dtype=torch.float64)
    w = GaussianDraw(*leaves())
    with sampling([(w, "weight")]):
        assert uses(w) == 0
        _ = w @ x, w.T.shape, (2 * w).sum()
        assert uses(w) == 2
    for second in (lambda w: w @ x, lambda w: w.sum(), lambda w: (2 * w[0]).exp()):
        for estimator in ("local", "flipout"):
            w = GaussianDraw(*leaves())
            with pytest.raises(SecondUseError), sampling([(w, estimator)]):
                w @ x
                second(w)
            assert uses(w) == 0
            assert torch.equal(w @ x, w.value() @ x)


def test_a_weight_that_was_looked_at_before_its_product_is_not_sampled_anew():
    w = GaussianDraw(*leaves())
    with pytest.raises(SecondUseError), sampling([(w, "local")]):
        w.abs().max()
        w @ torch.ones(3, dtype=torch.float64)


@pytest.mark.parametrize("estimator", ["local", "flipout"])
def test_a_draw_whose_numbers_are_known_before_the_pass_keeps_to_them(estimator):
    w, b = (
        GaussianDraw(*leaves()),
        GaussianDraw(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)),
    )
    x = torch.ones(4, 3, dtype=torch.float64)
    known, bias = w.value(), b.value()
    with sampling([(w, estimator), (b, estimator)]):
        torch.testing.assert_close(F.linear(x, w, b), F.linear(x, known, bias))
    fresh = GaussianDraw(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64))
    with sampling([(fresh, estimator), (b, estimator)]):
        torch.testing.assert_close(F.linear(x, fresh, b), bias.expand(4, 2))


def scripted() -> Callable[[Tensor, Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(lambda x, w: x @ w.t(), (torch.ones(4, 3), torch.ones(2, 3)))


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x)
        return x @ w.T

    @staticmethod
    def backward(ctx, grad):
        return None, grad.T @ ctx.saved_tensors[0]


@pytest.mark.parametrize("function", [scripted(), Custom.apply], ids=["TorchScript", "autograd.Function"])
@pytest.mark.parametrize("trained", ["mean", "variance", "both"])
def test_below_the_function_protocol_a_gradient_is_refused_rather_than_lost(function, trained):
    loc, var = leaves(torch.float32)
    loc.requires_grad_(trained != "variance")
    var.requires_grad_(trained != "mean")
    w = GaussianDraw(loc, var)
    x = torch.ones(4, 3)
    with pytest.raises(RuntimeError, match="estimator='weight'"):
        function(x, w).sum().backward()
    torch.testing.assert_close(function(x, w), x @ w.value().T)
    function(x, plain(w)).sum().backward()
    assert all(t.grad is not None for t in (loc, var) if t.requires_grad)


def test_plain_reaches_into_nested_arguments():
    w = GaussianDraw(*leaves())
    tree = plain({"a": [w, 1], "b": (w.T,)})
    assert torch.equal(tree["a"][0], w.value())
    assert torch.equal(tree["b"][0], w.value().T)
    assert tree["a"][1] == 1


def test_a_lazy_normal_is_pyros_normal_whose_single_draw_is_lazy():
    loc, var = (t.detach() for t in leaves())
    lazy, usual = LazyNormal(loc, var.sqrt()), dist.Normal(loc, var.sqrt())
    draw = lazy.rsample()
    assert type(draw) is GaussianDraw
    torch.testing.assert_close(draw.var, var)
    torch.testing.assert_close(lazy.log_prob(draw), usual.log_prob(draw.value()))
    torch.testing.assert_close(lazy.entropy(), usual.entropy())
    assert type(lazy.rsample(torch.Size([5]))) is Tensor
    assert lazy.rsample(torch.Size([5])).shape == (5, 2, 3)
    assert type(lazy.to_event(2).rsample()) is GaussianDraw
    assert lazy.expand(torch.Size([4, 2, 3])).rsample().shape == (4, 2, 3)
