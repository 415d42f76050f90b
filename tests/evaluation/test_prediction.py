"""The posterior predictive: averages, where uncertainty comes from, masks, and one draw as one net."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.evaluation.classification import entropy

N = 20


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(N, 4, generator=generator), torch.randint(3, (N,), generator=generator)


def classifier(log_scale: float = -1.0) -> bp.BayesianNet:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    bnet = bp.BayesianNet(net, {"*.weight": bp.Gaussian(init_log_scale=log_scale)})
    bp.classify(bnet, N)
    return bnet


def loader(size: int = 5, shuffle: bool = False) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*data()), batch_size=size, shuffle=shuffle)


# --- what it holds ----------------------------------------------------------------------------------------------------


def test_the_mean_is_the_average_of_the_draws() -> None:
    p = bp.predict(classifier(), loader(), draws=7, seed=0)
    assert p.draws.shape == (7, N, 3)
    assert p.mean.shape == (N, 3)
    assert torch.allclose(p.mean, p.draws.mean(0), atol=1e-6)
    assert torch.allclose(p.draws.sum(-1), torch.ones(7, N), atol=1e-5)
    assert p.draws.std(0).min().item() > 0


def test_epistemic_and_aleatoric_add_up_to_the_entropy_of_the_mean() -> None:
    p = bp.predict(classifier(), loader(), draws=9, seed=0)
    assert p.epistemic.shape == p.aleatoric.shape == (N,)
    assert torch.allclose(p.epistemic + p.aleatoric, entropy(p.mean), atol=1e-5)
    assert torch.allclose(p.aleatoric, entropy(p.draws).mean(0), atol=1e-6)
    assert bool((p.epistemic > 0).all())  # Jensen: the mean of distributions that differ


def test_more_posterior_noise_is_more_epistemic_uncertainty() -> None:
    small, large = (bp.predict(classifier(s), loader(), draws=20, seed=0).epistemic.mean() for s in (-3.0, 0.0))
    assert large > 10 * small


def test_a_net_without_posterior_noise_has_no_epistemic_uncertainty() -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    bnet = bp.BayesianNet(net, {"0.weight": bp.Deterministic()})
    bp.classify(bnet, N)
    p = bp.predict(bnet, loader(), draws=3)
    assert torch.equal(p.draws[0], p.draws[1])
    assert p.epistemic.abs().max().item() < 1e-6
    assert torch.allclose(p.mean, net(data()[0]).softmax(-1), atol=1e-6)


def test_regression_splits_the_variance() -> None:
    """y = w x with w ~ N(2, 0.3²) and noise 0.5: what is known in closed form."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False))
    net[0].weight.data.fill_(2.0)
    bnet = bp.BayesianNet(net, {"0.weight": bp.Gaussian(init_log_scale=math.log(0.3))})
    bp.regress(bnet, N, noise=0.5)
    x, draws = torch.tensor([[0.0], [1.0], [-3.0]]), 500
    p = bp.predict(bnet, [x], draws=draws, seed=0)
    assert p.draws.shape == (draws, 3, 1)
    assert p.mean.shape == p.epistemic.shape == p.aleatoric.shape == (3, 1)
    assert torch.allclose(p.aleatoric, torch.full((3, 1), 0.25), atol=1e-6)
    assert torch.allclose(p.epistemic, 0.09 * x.square(), rtol=5 * math.sqrt(2 / draws), atol=1e-9)
    assert bool(((p.mean - 2 * x).abs() <= 5 * 0.3 * x.abs() / math.sqrt(draws)).all())
    assert torch.allclose(p.epistemic, p.draws.var(0), rtol=1e-5)


def test_one_draw_has_no_spread() -> None:
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(4, 2)), {"0.weight": bp.Gaussian(init_log_scale=0.0)})
    bp.regress(bnet, N, noise=1.0)
    p = bp.predict(bnet, [data()[0]], draws=1)
    assert bool((p.epistemic == 0).all())


def test_predict_agrees_with_the_nets_own_means_where_noise_is_small() -> None:
    bnet = classifier(log_scale=-9.0)
    bnet.eval()
    p = bp.predict(bnet, loader(), draws=2)
    assert torch.allclose(p.mean, bnet.run(bnet.means(), data()[0]).softmax(-1), atol=1e-3)


# --- one draw is one net ----------------------------------------------------------------------------------------------


def test_one_draw_is_one_weight_across_batches() -> None:
    x = data()[0][:1].expand(12, -1)  # one example, in four batches
    for bnet in (classifier(), classifier().train()):
        p = bp.predict(bnet, list(x.split(3)), draws=5, seed=0)
        assert torch.allclose(p.draws, p.draws[:, :1].expand_as(p.draws), atol=1e-6)
        assert len({round(v, 5) for v in p.draws[:, 0, 0].tolist()}) == 5


@pytest.mark.parametrize("size", [1, 7, N])
def test_the_batches_do_not_matter(size: int) -> None:
    bnet = classifier()
    p, reference = (bp.predict(bnet, loader(s), draws=4, seed=0) for s in (size, 5))
    assert torch.allclose(p.draws, reference.draws, atol=1e-6)
    assert torch.equal(p.targets, reference.targets)


def test_the_seed_fixes_the_draws_and_leaves_the_generator() -> None:
    bnet = classifier()
    before = torch.get_rng_state()
    one = bp.predict(bnet, loader(N), draws=3, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(bp.predict(bnet, loader(N), draws=3, seed=4).draws, one.draws)
    assert not torch.equal(bp.predict(bnet, loader(N), draws=3, seed=5).draws, one.draws)
    torch.manual_seed(1)
    first, second = (bp.predict(bnet, loader(N), draws=3).draws for _ in range(2))
    assert not torch.equal(first, second)


def test_mode_statistics_and_gradients_are_left_alone() -> None:
    for training in (True, False):
        bnet = classifier().train(training)
        before = {name: value.clone() for name, value in bnet.state_dict().items()}
        p = bp.predict(bnet, loader(), draws=2)
        assert bnet.training is training
        assert all(torch.equal(value, before[name]) for name, value in bnet.state_dict().items())
        assert not p.mean.requires_grad
        assert all(parameter.grad is None for parameter in bnet.parameters())


# --- loaders ----------------------------------------------------------------------------------------------------------

LOADERS: dict[str, Callable[[], Any]] = {
    "DataLoader": loader,
    "list of pairs": lambda: [(x, y) for x, y in loader()],
    "one-pass iterator": lambda: iter([(x, y) for x, y in loader()]),
    "inputs alone": lambda: [x for x, _ in loader()],
    "inputs alone, from a DataLoader": lambda: DataLoader(TensorDataset(data()[0]), batch_size=5),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_any_loader_will_do(kind: str) -> None:
    bnet = classifier()
    p = bp.predict(bnet, LOADERS[kind](), draws=3, seed=0)
    if "DataLoader" not in kind:  # which draws a seed for its workers in each pass
        assert torch.allclose(p.draws, bp.predict(bnet, [data()], draws=3, seed=0).draws, atol=1e-6)
    assert p.draws.shape == (3, N, 3)
    if "alone" in kind:
        assert p.targets is None
    else:
        assert p.targets is not None
        assert torch.equal(p.targets, data()[1])


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.fc(a - b)


SHAPES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "by place": lambda a, y: (a, 2 * a, y),
    "as a tuple": lambda a, y: ((a, 2 * a), y),
    "as a list": lambda a, y: ([a, 2 * a], y),
    "by name": lambda a, y: ({"b": 2 * a, "a": a}, y),
    "by name, without targets": lambda a, y: {"b": 2 * a, "a": a},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_several_inputs_by_place_or_by_name(shape: str) -> None:
    bnet = bp.BayesianNet(Sum(), {"fc.weight": bp.Gaussian(init_log_scale=-9.0)})
    bp.classify(bnet, N)
    p = bp.predict(bnet, [SHAPES[shape](x, y) for x, y in loader()], draws=2, seed=0)
    assert torch.allclose(p.mean, bnet.net.fc(-data()[0]).softmax(-1), atol=1e-3)


# --- masks ------------------------------------------------------------------------------------------------------------


def test_masks_hold_in_every_draw() -> None:
    bnet = classifier()
    last = torch.zeros(3, 6, dtype=torch.bool)
    p = bp.predict(bnet, loader(), draws=5, masks={"3.weight": last}, seed=0)
    assert torch.allclose(p.draws, bnet.means()["3.bias"].softmax(-1).expand_as(p.draws), atol=1e-6)
    whole = {name: torch.ones_like(mean, dtype=torch.bool) for name, (mean, _) in bnet.moments().items()}
    one, two = (bp.predict(bnet, loader(), draws=5, masks=masks, seed=0) for masks in (whole, None))
    assert torch.equal(one.draws, two.draws)


def test_a_mask_drops_its_entries_and_no_others() -> None:
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(4, 3)), {"0.weight": bp.Gaussian(init_log_scale=-1.0)})
    bp.regress(bnet, N, noise=1.0)
    mask = torch.rand(3, 4) < 0.5
    x = torch.eye(4)  # reads the weight off, column by column
    whole = bp.predict(bnet, [x], draws=4, seed=0).draws - bnet.means()["0.bias"]
    masked = bp.predict(bnet, [x], draws=4, seed=0, masks={"0.weight": mask}).draws - bnet.means()["0.bias"]
    assert torch.allclose(masked, whole * mask.T, atol=1e-6)
    assert 0 < int(mask.sum()) < 12


def test_what_was_pruned_while_fitting_is_zero_in_every_draw() -> None:
    bnet = classifier()
    bnet.prune({"3.weight": torch.zeros(3, 6, dtype=torch.bool)})
    p = bp.predict(bnet, loader(), draws=5)
    assert torch.allclose(p.draws, bnet.means()["3.bias"].softmax(-1).expand_as(p.draws), atol=1e-6)


# --- what it refuses --------------------------------------------------------------------------------------------------

MASKS: dict[str, tuple[dict[str, Tensor], str]] = {
    "unknown name": ({"fc9.weight": torch.ones(3, 6).bool()}, r"'fc9\.weight'.*no posterior.*0\.weight.*3\.weight"),
    "no posterior": ({"3.bias": torch.ones(3).bool()}, r"'3\.bias'.*no posterior"),
    "wrong shape": ({"3.weight": torch.ones(6, 3).bool()}, r"'3\.weight'.*bool of shape \(3, 6\).*\(6, 3\)"),
    "of another rank": ({"3.weight": torch.ones(18).bool()}, r"'3\.weight'.*\(3, 6\).*\(18,\)"),
    "float": ({"3.weight": torch.ones(3, 6)}, r"'3\.weight'.*bool.*got torch\.float32"),
}


@pytest.mark.parametrize("what", MASKS)
def test_masks_that_do_not_fit_are_errors(what: str) -> None:
    masks, words = MASKS[what]
    with pytest.raises(ValueError, match=words):
        bp.predict(classifier(), loader(), draws=2, masks=masks)


def test_a_net_without_an_observation_model_is_an_error() -> None:
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(4, 3)), {"0.weight": bp.SparseVD()})
    with pytest.raises(ValueError, match=r"bp\.classify or bp\.regress first"):
        bp.predict(bnet, loader())


def test_a_loader_that_shuffles_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"order changes.*shuffle=False"):
        bp.predict(classifier(), loader(shuffle=True), draws=3)


@pytest.mark.parametrize("draws", [0, -1])
def test_too_few_draws_are_an_error(draws: int) -> None:
    with pytest.raises(ValueError, match=f"draws.*≥ 1, got {draws}"):
        bp.predict(classifier(), loader(), draws=draws)


def test_no_data_is_an_error() -> None:
    with pytest.raises(ValueError, match="no batches"):
        bp.predict(classifier(), [])


def test_an_error_leaves_the_mode_as_it_was() -> None:
    bnet = classifier().train()
    with pytest.raises(ValueError, match="no batches"):
        bp.predict(bnet, [])
    assert bnet.training
