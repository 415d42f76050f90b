"""The two complete models: what they make of outputs and targets, and which targets they refuse."""

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.fitting.elbo import MeanFieldELBO

SIZE = 100


def new(outputs: int = 3, *after: nn.Module) -> bp.BayesianNet:
    """A net with next to no noise in its weights, so that its output is its mean's."""
    net = nn.Sequential(nn.Linear(4, outputs), *after)
    return bp.BayesianNet(net, {"0.weight": bp.Gaussian(init_log_scale=-10.0)}).eval()


def nll(model: Any, x: Tensor, y: Tensor) -> float:
    elbo = MeanFieldELBO()
    elbo.loss(model, model.bnet.guide, x, y)
    return elbo.nll.item()


# --- what the likelihood is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_classify_is_cross_entropy_scaled_to_the_data_set(dtype: torch.dtype) -> None:
    bnet = new()
    x, y = torch.randn(7, 4), torch.tensor([0, 1, 2, 2, 1, 0, 0])
    truth = nn.functional.cross_entropy(bnet.run(bnet.means(), x), y, reduction="sum").item()
    assert nll(bp.classify(bnet, SIZE), x, y.to(dtype)) == pytest.approx(truth * SIZE / 7, rel=1e-3)


def test_classify_takes_a_label_per_token() -> None:
    bnet = new()
    x, y = torch.randn(5, 6, 4), torch.randint(3, (5, 6))
    truth = nn.functional.cross_entropy(bnet.run(bnet.means(), x).flatten(0, 1), y.flatten(), reduction="sum").item()
    assert nll(bp.classify(bnet, SIZE), x, y) == pytest.approx(truth * SIZE / 5, rel=1e-3)


@pytest.mark.parametrize("shape", ["(n,) on (n, 1)", "(n, 1) on (n, 1)", "(n,) on (n,)", "(n, 3) on (n, 3)"])
def test_regress_is_the_normal_density_scaled_to_the_data_set(shape: str) -> None:
    of_y, of_output = shape.split(" on ")
    bnet = new(3 if "3" in of_output else 1, *([nn.Flatten(0)] if of_output == "(n,)" else []))
    x = torch.randn(6, 4)
    y = torch.randn({"(n,)": (6,), "(n, 1)": (6, 1), "(n, 3)": (6, 3)}[of_y])
    mean = bnet.run(bnet.means(), x)
    truth = -dist.Normal(mean.flatten(), 0.7).log_prob(y.flatten()).sum().item()
    assert nll(bp.regress(bnet, SIZE, noise=0.7), x, y) == pytest.approx(truth * SIZE / 6, rel=1e-3)


def test_the_noise_is_the_standard_deviation_in_the_targets_units() -> None:
    bnet = new(1)
    assert bp.regress(bnet, SIZE, noise=0.7).bnet.observation.noise == pytest.approx(0.7)
    assert not list(bnet.observation.parameters())
    learned = bp.regress(bnet, SIZE).bnet.observation
    assert learned.noise == pytest.approx(1.0)
    assert [name for name, _ in learned.named_parameters()] == ["log_noise"]
    with torch.no_grad():
        learned.log_noise.fill_(math.log(2.5))
    assert learned.noise == pytest.approx(2.5)


def test_learned_noise_gets_a_gradient() -> None:
    model = bp.regress(new(1), SIZE)
    MeanFieldELBO().differentiable_loss(model, model.bnet.guide, torch.randn(6, 4), 3 * torch.randn(6)).backward()
    gradient = model.bnet.observation.log_noise.grad
    assert gradient is not None
    assert gradient.item() < 0  # targets spread wider than 1: more noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_stays_in_the_nets_dtype(dtype: torch.dtype) -> None:
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(4, 1)).to(dtype), {"0.*": bp.SparseVD()})
    trace = poutine.trace(bp.regress(bnet, SIZE)).get_trace(torch.randn(3, 4, dtype=dtype))
    assert trace.nodes["y"]["value"].dtype == trace.nodes["_RETURN"]["value"].dtype == dtype


def test_the_sites_are_the_nets_and_y_in_the_plate_data() -> None:
    model = bp.classify(new(), SIZE)
    trace = poutine.trace(model).get_trace(torch.randn(6, 4), torch.zeros(6, dtype=torch.int64))
    samples = [name for name, site in trace.nodes.items() if site["type"] == "sample"]
    assert samples == ["0.weight", "data", "y"]
    assert trace.nodes["y"]["is_observed"]
    assert trace.nodes["y"]["scale"] == pytest.approx(SIZE / 6)


def test_without_targets_the_model_draws_them() -> None:
    """As many as there are inputs, be they more than the training set's size."""
    bnet = new()
    model = bp.classify(bnet, 5)
    x = torch.randn(9, 4)
    draws = Predictive(model, guide=bnet.guide, num_samples=300, return_sites=("y",))(x)["y"]
    assert draws.shape == (300, 9)
    frequency = nn.functional.one_hot(draws, 3).double().mean(0)
    probability = bnet.run(bnet.means(), x).softmax(-1)
    assert torch.allclose(frequency, probability.double(), atol=5 * 0.5 / math.sqrt(300))
    continuous = Predictive(bp.regress(new(1), 5, noise=2.0), num_samples=200, return_sites=("y", "_RETURN"))(x)
    assert (continuous["y"] - continuous["_RETURN"]).std().item() == pytest.approx(2.0, rel=0.1)


def test_the_model_returns_the_nets_output() -> None:
    bnet = new()
    x = torch.randn(6, 4)
    fixed = {"0.weight": torch.randn(3, 4)}
    output = poutine.condition(bp.classify(bnet, SIZE), data=fixed)(x)
    assert torch.allclose(output, x @ fixed["0.weight"].T + bnet.means()["0.bias"], atol=1e-6)


# --- what it refuses --------------------------------------------------------------------------------------------------

_x = torch.zeros(5, 4)
_zeros = torch.zeros(5, dtype=torch.int64)


def _with(value: int) -> Tensor:
    return torch.tensor([0, 1, value, 2, 0])


LABELS: dict[str, tuple[Tensor, Tensor, str]] = {
    "too high": (_x, _with(3), r"0…2 for 3 logits, got 0…3"),
    "negative": (_x, _with(-1), r"0…2 for 3 logits, got -1…2"),
    "another ignore_index": (_x, _with(255), r"got 0…255; one that counts for nothing is ignore_index=-100"),
    "one-hot": (_x, torch.eye(5)[:, :3].long(), r"\(5, 3\).*\(5, 3\).*one integer label per example, of shape \(5,\)"),
    "a column": (_x, _zeros[:, None], r"labels of shape \(5, 1\).*of shape \(5,\)"),
    "too few": (_x, _zeros[:4], r"labels of shape \(4,\).*logits of shape \(5, 3\)"),
    "a scalar": (_x, _zeros[0], r"labels of shape \(\)"),
    "float": (_x, _zeros.float(), r"integers, got torch\.float32.*bp\.regress"),
    "bool": (_x, _zeros.bool(), r"integers, got torch\.bool"),
    "an empty batch": (_x[:0], _zeros[:0], "empty batch"),
    "more than size": (_x.repeat(3, 1), _zeros.repeat(3), r"batch of 15.*size=10"),
}


@pytest.mark.parametrize("what", LABELS)
def test_classify_refuses_labels_that_cannot_be(what: str) -> None:
    x, y, words = LABELS[what]
    bnet = new()
    model = bp.classify(bnet, 10)
    with pytest.raises(ValueError, match=words):
        MeanFieldELBO().loss(model, bnet.guide, x, y)


TARGETS: dict[str, tuple[int, Tensor, Tensor, str]] = {
    "integers": (1, _x, _zeros, r"floating point, got torch\.int64.*bp\.classify"),
    "nan": (1, _x, torch.tensor([0.0, 1.0, math.nan, 0.0, 0.0]), "NaN or infinity"),
    "infinity": (1, _x, torch.tensor([0.0, 1.0, math.inf, 0.0, 0.0]), "NaN or infinity"),
    "a vector for two outputs": (2, _x, torch.zeros(5), r"shape \(5,\).*outputs of shape \(5, 2\)"),
    "a column for two outputs": (2, _x, torch.zeros(5, 1), r"shape \(5, 1\).*outputs of shape \(5, 2\)"),
    "a row": (1, _x, torch.zeros(1, 5), r"shape \(1, 5\).*outputs of shape \(5, 1\)"),
    "too few": (1, _x, torch.zeros(4), r"shape \(4,\).*outputs of shape \(5, 1\)"),
    "an empty batch": (1, _x[:0], torch.zeros(0), "empty batch"),
    "more than size": (1, _x.repeat(3, 1), torch.zeros(15), r"batch of 15.*size=10"),
}


@pytest.mark.parametrize("what", TARGETS)
def test_regress_refuses_targets_that_cannot_be(what: str) -> None:
    outputs, x, y, words = TARGETS[what]
    bnet = new(outputs)
    model = bp.regress(bnet, 10)
    with pytest.raises(ValueError, match=words):
        MeanFieldELBO().loss(model, bnet.guide, x, y)


def test_a_column_of_targets_for_a_net_that_gives_a_vector_is_an_error_not_a_broadcast() -> None:
    bnet = new(1, nn.Flatten(0))
    with pytest.raises(ValueError, match=r"shape \(5, 1\).*outputs of shape \(5,\)"):
        MeanFieldELBO().loss(bp.regress(bnet, 10), bnet.guide, _x, torch.zeros(5, 1))


ARGUMENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "size 0": (lambda: bp.classify(new(), 0), "size.*≥ 1, got 0"),
    "size negative": (lambda: bp.regress(new(), -3), "size.*≥ 1, got -3"),
    "noise 0": (lambda: bp.regress(new(), 10, noise=0.0), r"noise.*above 0, got 0\.0"),
    "noise negative": (lambda: bp.regress(new(), 10, noise=-1.0), r"noise.*above 0, got -1\.0"),
    "noise nan": (lambda: bp.regress(new(), 10, noise=math.nan), "noise.*got nan"),
    "noise infinite": (lambda: bp.regress(new(), 10, noise=math.inf), "noise.*got inf"),
}


@pytest.mark.parametrize("what", ARGUMENTS)
def test_bad_arguments_are_errors(what: str) -> None:
    make, words = ARGUMENTS[what]
    with pytest.raises(ValueError, match=words):
        make()


def test_a_net_that_returns_a_tuple_needs_a_model_of_its_own() -> None:
    bnet = bp.BayesianNet(nn.LSTM(4, 3, batch_first=True), {"weight_ih_l0": bp.SparseVD()})
    with pytest.raises(TypeError, match="one tensor here, got tuple"):
        bp.classify(bnet, 10)(torch.zeros(2, 5, 4))


# --- names ------------------------------------------------------------------------------------------------------------


class Called(nn.Module):
    """A layer, and parameters of its own under the names given, the first of which is added to its output."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.first, self.fc = names[0], nn.Linear(4, 3)
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.zeros(3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + getattr(self, self.first)


@pytest.mark.parametrize("names", [("y",), ("data",), ("data", "y"), ("y", "y_", "data_"), ("obs", "plate")])
@pytest.mark.parametrize("rule", ["fc.weight", "first", "*"])
def test_a_parameter_is_called_as_it_likes(names: tuple[str, ...], rule: str) -> None:
    """The same fit as under names that meet nothing."""
    torch.manual_seed(0)
    x, y = torch.randn(12, 4), torch.randint(0, 3, (12,))
    found = []
    for called in (names, [f"other{k}" for k in range(len(names))]):
        torch.manual_seed(0)
        bnet = bp.BayesianNet(Called(*called), {called[0] if rule == "first" else rule: bp.SparseVD()})
        model = bp.classify(bnet, 12)
        history = bp.fit(model, bnet.guide, [(x, y)], epochs=3, lr=1e-2, seed=0, progress=False)
        samples = Predictive(model, guide=bnet.guide, num_samples=2)(x)
        assert samples[model.target].shape[-1] == 12
        found.append((history.nll, history.kl, bp.predict(bnet, [x], draws=2, seed=0).mean))
    (mine, theirs) = found
    assert mine[:2] == theirs[:2] and torch.equal(mine[2], theirs[2])


def test_sites_are_called_y_and_data_where_they_can_be() -> None:
    model = bp.classify(new(), SIZE)
    trace = poutine.trace(model).get_trace(torch.randn(5, 4), torch.zeros(5).long())
    assert {"y", "data"} <= set(trace.nodes)
