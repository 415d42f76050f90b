"""BayesianNet over modules that know nothing of it: attention, recurrence, tied weights, checkpointing."""

import warnings
from collections.abc import Callable

import pytest
import torch
from support.modules import MODULES, Tied, weights_of
from support.passes import CERTAIN, draw_and_run, train, without_gradient
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bayesprune import SparseVD
from bayesprune.draws.gaussian import Estimator
from bayesprune.network.bayesian_net import BayesianNet

# --- modules that know nothing of it --------------------------------------------------------------------------------


class Product(torch.autograd.Function):
    """A linear layer's product with a gradient of its own making, as fused kernels come."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w.T

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad @ w, grad.T @ x


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w):
        ctx.save_for_backward(w)
        return w.square()

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad * ctx.saved_tensors[0]


class Fused(nn.Module):
    """A net that hands its weight to something below torch's function protocol."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.product = nn.Parameter(torch.randn(3, 4)), product

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight)


def traced() -> Callable[[Tensor, Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(lambda x, w: x @ w.t(), (torch.zeros(5, 4), torch.zeros(3, 4)))


every_module = pytest.mark.parametrize("name", MODULES)


@every_module
@pytest.mark.parametrize("estimator", ["local", "weight", "flipout"])
def test_an_unmodified_module_trains_with_gradients_to_every_posterior(name, estimator):
    torch.manual_seed(0)
    make, inputs, _ = MODULES[name]
    net = make()
    bnet = BayesianNet(net, weights_of(net), estimator=estimator)
    output = train(bnet, *inputs, steps=3)
    assert bool(torch.isfinite(output).all())
    assert without_gradient(bnet) == []
    assert all(p.grad is None for p in net.parameters())


@every_module
def test_the_weights_whose_activations_are_sampled_are_told(name):
    torch.manual_seed(0)
    make, inputs, expected = MODULES[name]
    net = make()
    bnet = BayesianNet(net, weights_of(net))
    assert bnet.sampled_locally == ()
    train(bnet, *inputs)
    assert set(bnet.sampled_locally) == expected
    plain = BayesianNet(net, weights_of(net), estimator="weight")
    train(plain, *inputs)
    assert plain.sampled_locally == ()


@every_module
def test_without_variance_a_module_gives_its_own_outputs(name):
    torch.manual_seed(0)
    make, inputs, _ = MODULES[name]
    net = make().train()
    bnet = BayesianNet(net, weights_of(net, CERTAIN))
    for _ in range(2):
        torch.testing.assert_close(draw_and_run(bnet, *inputs), net(*inputs))
    bnet.eval(), net.eval()
    torch.testing.assert_close(draw_and_run(bnet, *inputs), net(*inputs))


@pytest.mark.parametrize("estimator", ["local", "flipout"])
@pytest.mark.parametrize("product", [Product.apply, traced()], ids=["autograd.Function", "TorchScript"])
def test_a_product_below_the_function_protocol_takes_the_weight_draw(product, estimator):
    net, x = Fused(product), torch.randn(5, 4)
    bnet = BayesianNet(net, {"weight": SparseVD()}, estimator=estimator)
    train(bnet, x)
    assert without_gradient(bnet) == []
    assert bnet.sampled_locally == ()


def test_a_gradient_that_would_be_lost_says_what_helps_and_it_does():
    net, x = Fused(lambda x, w: Squared.apply(w).sum() * x), torch.randn(5, 4)
    with pytest.raises(RuntimeError, match="estimator='weight'"):
        train(BayesianNet(net, {"weight": SparseVD()}), x)
    bnet = BayesianNet(net, {"weight": SparseVD()}, estimator="weight")
    train(bnet, x)
    assert without_gradient(bnet) == []


# --- weights used more than once ------------------------------------------------------------------------------------


class Unrolled(nn.Module):
    """One module, called twice; the second time only when asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.twice = nn.Linear(3, 3, bias=False), True

    def forward(self, x: Tensor) -> Tensor:
        first = self.fc(x)
        return torch.stack([first, self.fc(x) if self.twice else torch.zeros_like(first)])


@pytest.mark.parametrize("estimator", ["local", "flipout"])
@pytest.mark.parametrize("make", [Tied, Unrolled])
def test_all_uses_of_a_weight_see_the_same_draw(make, estimator):
    bnet = BayesianNet(make(), {"*": SparseVD()}, estimator=estimator)
    x = torch.randn(1, 3).expand(4, 3)
    for _ in range(3):
        output = train(bnet, x, steps=1)
        assert torch.equal(output[0], output[1])
        torch.testing.assert_close(output, output[:, :1].expand_as(output))
        assert without_gradient(bnet) == []
    assert bnet.sampled_locally == ()


def test_a_weight_used_twice_costs_its_neighbours_nothing():
    net = nn.Sequential(Unrolled(), nn.Linear(3, 2))
    bnet = BayesianNet(net, {"*": SparseVD()})
    train(bnet, torch.randn(4, 3))
    assert bnet.sampled_locally == ("1.weight", "1.bias")


@pytest.mark.parametrize("estimator", ["local", "flipout"])
def test_an_unexpected_second_use_redoes_the_pass_with_plain_draws_from_then_on(estimator):
    net = Unrolled()
    bnet = BayesianNet(net, {"*": SparseVD()}, estimator=estimator)
    x = torch.randn(1, 3).expand(4, 3)
    net.twice = False
    train(bnet, x)
    assert bnet.sampled_locally == ("fc.weight",)
    net.twice = True
    output = train(bnet, x, steps=1)
    assert torch.equal(output[0], output[1])
    assert without_gradient(bnet) == []
    net.twice = False
    output = train(bnet, x, steps=1)
    torch.testing.assert_close(output[0], output[0, :1].expand(4, 3))  # one weight for all rows
    assert bnet.sampled_locally == ()


# --- activation checkpointing ---------------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    """Two layers, the first recomputed in the backward pass or not."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.a, self.b, self.reentrant = nn.Linear(3, 4), nn.Linear(4, 2), reentrant

    def forward(self, x: Tensor) -> Tensor:
        def first(x: Tensor) -> Tensor:
            return self.a(x).tanh()

        return self.b(first(x) if self.reentrant is None else checkpoint(first, x, use_reentrant=self.reentrant))


def slopes(reentrant: bool | None, estimator: Estimator) -> dict[str, Tensor]:
    """The gradients of the third pass, the input's among them."""
    torch.manual_seed(0)
    net = Checkpointed(reentrant)
    bnet = BayesianNet(net, {"*": SparseVD(init_log_scale=-1.0)}, estimator=estimator)
    x = torch.randn(5, 3, requires_grad=True)
    for step in range(3):
        bnet.zero_grad()
        x.grad = None
        torch.manual_seed(step)
        draw_and_run(bnet, x).square().sum().backward()
    assert all(p.grad is None for p in net.parameters())
    assert x.grad is not None
    return {"x": x.grad, **{n: p.grad for n, p in bnet.named_parameters()}}


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("estimator", ["local", "weight", "flipout"])
def test_checkpointing_changes_no_gradient(reentrant, estimator):
    expected, found = slopes(None, estimator), slopes(reentrant, estimator)
    for name, slope in expected.items():
        torch.testing.assert_close(found[name], slope)
