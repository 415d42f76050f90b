"""The Laplace posterior with Kronecker factors, beside what is known in closed form or by brute force."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesprune.layout import Layout
from bayesprune.likelihoods import Categorical, Normal
from bayesprune.methods import Deterministic
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.one_shot.conditioning import condition_weight, solve_rows
from bayesprune.one_shot.factors import Factors, factors_of
from bayesprune.one_shot.laplace import laplace_of
from bayesprune.patterns import NM, Block, Channel, Heads, Pattern, Unstructured

NOISE, PRIOR = 0.7, 3.0
PATTERNS = [Unstructured(), Block(2, 3), Block(3, 1), Block(4, 4), Channel(0), Channel(1), Heads(2), NM(2, 4)]


def regression(seed: int = 0) -> tuple[BayesianNet, Tensor, Tensor]:
    """A linear regression of 4 outputs on 8 correlated inputs, its inputs, and its exact posterior precision."""
    torch.manual_seed(seed)
    x = torch.randn(50, 8, dtype=torch.float64) @ torch.randn(8, 8, dtype=torch.float64)
    net = nn.Linear(8, 4, bias=False).double()
    bnet = BayesianNet(net, {"weight": Deterministic()})
    precision = torch.kron(torch.eye(4).double(), x.mT @ x / NOISE**2) + PRIOR * torch.eye(32).double()
    return bnet, x, precision


def factors(bnet: BayesianNet, x: Tensor) -> Factors:
    return factors_of(bnet.eval(), bnet.means(), [(x[:20], None), (x[20:], None)], Normal(NOISE))["weight"]


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_the_snr_of_a_group_is_exact_on_a_linear_regression(pattern: Pattern) -> None:
    bnet, x, precision = regression()
    weight, layout = bnet.means()["weight"], Layout((4, 8))
    found = laplace_of(weight, layout, factors(bnet, x), size=50, prior_precision=PRIOR).snr_squared(pattern, layout)
    sigma, numbers = torch.linalg.inv(precision), torch.arange(found.numel()).reshape(found.shape)
    of = pattern.expand(numbers, layout).flatten()
    for group in range(found.numel()):
        at = (of == group).nonzero()[:, 0]
        w = weight.flatten()[at]
        exact = w @ torch.linalg.solve(sigma[at][:, at], w)
        assert found.flatten()[group] == pytest.approx(float(exact), rel=1e-6)


def test_marginal_variances_are_exact_on_a_linear_regression() -> None:
    bnet, x, precision = regression()
    found = laplace_of(bnet.means()["weight"], Layout((4, 8)), factors(bnet, x), size=50, prior_precision=PRIOR)
    assert torch.allclose(found.marginal().flatten(), torch.linalg.inv(precision).diagonal(), rtol=1e-9)


def test_data_count_by_the_size_of_the_training_set() -> None:
    bnet, x, _ = regression()
    weight, layout = bnet.means()["weight"], Layout((4, 8))
    twice = factors_of(bnet, bnet.means(), [(torch.cat([x, x]), None)], Normal(NOISE))["weight"]
    one = laplace_of(weight, layout, factors(bnet, x), size=100, prior_precision=PRIOR)
    two = laplace_of(weight, layout, twice, size=100, prior_precision=PRIOR)
    assert torch.allclose(one.marginal(), two.marginal(), rtol=1e-9)


def test_the_prior_is_where_the_exact_evidence_is_greatest() -> None:
    bnet, x, _ = regression()
    weight, curvature = bnet.means()["weight"], torch.kron(torch.eye(4).double(), x.mT @ x / NOISE**2)
    found = laplace_of(weight, Layout((4, 8)), factors(bnet, x), size=50).prior_precision

    def evidence(precision: float) -> float:
        log_prior = 0.5 * 32 * torch.tensor(precision).log() - 0.5 * precision * weight.square().sum()
        return float(log_prior - 0.5 * torch.linalg.slogdet(curvature + precision * torch.eye(32))[1])

    # weights are held: the Laplace evidence as a function of the prior alone, whose best has λ ‖W‖² = γ
    steps = [found * 10 ** (k / 50) for k in range(-25, 26)]
    assert max(steps, key=evidence) == pytest.approx(found, rel=1e-6)


def test_what_stays_has_its_exact_conditional_mean() -> None:
    bnet, x, precision = regression()
    kept = torch.rand(4, 8) < 0.4
    dense = bnet.means()
    bnet.posteriors["weight"].prune(kept)
    damping = PRIOR * NOISE**2
    # what went is 0 and what stays was not moved yet; the prior holds each at its trained value
    made = condition_weight(bnet, "weight", {**bnet.means(), "weight": dense["weight"]}, dense, [(x, None)], damping)
    w, k = dense["weight"].flatten(), kept.flatten()
    exact = torch.zeros(32, dtype=torch.float64)
    exact[k] = w[k] + torch.linalg.solve(precision[k][:, k], precision[k][:, ~k] @ w[~k])
    assert torch.allclose(made["weight"].flatten(), exact, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("rows", "same"), [(7, False), (12, True)])
def test_rows_are_solved_one_by_one_on_their_supports(rows: int, same: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 9, dtype=torch.float64)
    gram, targets = x.mT @ x, torch.randn(rows, 9, dtype=torch.float64)
    support = torch.rand(rows, 9) < 0.5
    if same:
        support = support[:3].repeat_interleave(4, 0)
    support[0] = False
    found = solve_rows(gram, targets, support)
    for row, target, mask in zip(found, targets, support, strict=True):
        expected = torch.zeros(9, dtype=torch.float64)
        if bool(mask.any()):
            expected[mask] = torch.linalg.solve(gram[mask][:, mask], target[mask])
        assert torch.allclose(row, expected, atol=1e-9)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 3), (6,)),
    "conv1d": (nn.Sequential(nn.Conv1d(2, 3, 3, stride=2, padding=1), nn.Flatten()), (2, 5)),
    "conv2d": (nn.Sequential(nn.Conv2d(2, 1, (2, 3), padding=(1, 0), dilation=(2, 1)), nn.Flatten()), (2, 3, 5)),
    "conv3d": (nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten()), (1, 3, 2, 2)),
    "grouped": (nn.Sequential(nn.Conv2d(4, 4, 2, groups=2, padding="same"), nn.Flatten()), (4, 2, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_factors_are_those_of_gradients_example_by_example(name: str) -> None:
    torch.manual_seed(0)
    net, shape = LAYERS[name]
    net = net.double()
    weight = next(n for n, _ in net.named_parameters() if n.endswith("weight"))
    x = torch.randn(4, *shape, dtype=torch.float64)
    bnet = BayesianNet(net, {weight: Deterministic()}).eval()
    layout = bnet.posteriors[weight].layout
    found = factors_of(bnet, bnet.means(), [(x, None)], Categorical())[weight]
    inputs, outputs = torch.zeros_like(found.inputs), torch.zeros_like(found.outputs)
    owner = net.get_submodule(weight.rpartition(".")[0])
    for example, c in product(range(4), range(net(x).shape[1])):
        seen: list[Tensor] = []
        handle = owner.register_forward_hook(lambda m, a, out, seen=seen: seen.append(out))
        log_p = net(x[example : example + 1]).log_softmax(-1)[0]
        handle.remove()
        (g,) = torch.autograd.grad(log_p[c], seen)
        groups, out, *_ = layout.roles
        rows = g.reshape(groups, out, -1).mT if g.dim() > 2 else g[None]
        outputs += log_p[c].detach().exp() * rows.mT @ rows
    # inputs: the product's gradient by the weight, for a gradient of 1 at one output and place, is the patch there
    for example in range(4):
        result = owner(x[example : example + 1])
        for place in range(result[0, 0].numel() if result.dim() > 2 else 1):
            for group in range(layout.groups):
                channel = group * layout.roles[1]
                at = result[0, channel].flatten()[place] if result.dim() > 2 else result[0, channel]
                (d,) = torch.autograd.grad(at, owner.weight, retain_graph=True)
                patch = layout.matrix(d).flatten(2)[group, 0]
                inputs[group] += patch[:, None] * patch
    assert torch.allclose(found.inputs, inputs) and torch.allclose(found.outputs, outputs)


def test_one_example_of_a_linear_layer_has_the_fisher_matrix_itself() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(5, 3, bias=False).double(), torch.randn(1, 5, dtype=torch.float64)
    bnet = BayesianNet(net, {"weight": Deterministic()}).eval()
    f = factors_of(bnet, bnet.means(), [(x, None)], Categorical())["weight"]
    fisher = torch.zeros(15, 15, dtype=torch.float64)
    for c in range(3):
        log_p = net(x).log_softmax(-1)[0, c]
        (g,) = torch.autograd.grad(log_p, net.weight)
        fisher += log_p.detach().exp() * g.flatten()[:, None] * g.flatten()
    assert torch.allclose(torch.kron(f.outputs[0], f.inputs[0]), fisher)


def test_labels_that_are_drawn_have_the_same_factors_on_average() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(5, 3).double(), torch.randn(4, 5, dtype=torch.float64)
    bnet = BayesianNet(net, {"weight": Deterministic()}).eval()
    exact: Any = factors_of(bnet, bnet.means(), [(x, None)], Categorical())["weight"].outputs
    tokens = x[:, None]  # a position axis: labels are drawn
    drawn = factors_of(bnet, bnet.means(), [(tokens.repeat(5000, 1, 1), None)], Categorical())["weight"].outputs / 5000
    assert torch.allclose(drawn, exact, atol=0.03)
