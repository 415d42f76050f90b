"""``bp.prune`` on nets of many kinds: budgets, what stays as it was, what is refused."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import bayesprune as bp
from bayesprune.one_shot.door import Calibration


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))


def data(*shape: int, n: int = 96, classes: int = 3) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    x = torch.randn(n, *shape) @ torch.randn(shape[-1], shape[-1])  # correlated: there is something to make up with
    return [(part, torch.randint(0, classes, (len(part),))) for part in x.split(32)]


def count(masks: dict[str, Tensor]) -> tuple[int, int]:
    return sum(int(m.sum()) for m in masks.values()), sum(m.numel() for m in masks.values())


def distance(net: nn.Module, means: dict[str, Tensor], batches: list[tuple[Any, Any]]) -> float:
    with torch.no_grad():
        return sum(float((functional_call(net, means, (x,)) - net(x)).square().mean()) for x, _ in batches)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(x).relu() * self.one(x.flip(1)).tanh())


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, groups=4),
        nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (12,)),
    "convolutions": (convolutions, (2, 9, 9)),
    "attention": (Attention, (5, 16)),
    "siamese": (Siamese, (12,)),
}


@pytest.mark.parametrize("name", NETS)
def test_a_budget_is_met_and_what_stays_makes_up_for_what_went(name: str) -> None:
    make, shape = NETS[name]
    torch.manual_seed(0)
    net, batches = make(), data(*shape)
    before, mode = copy.deepcopy(net.state_dict()), net.training
    means, masks = bp.prune(net, batches, keep=0.5, shots=2)
    assert all(torch.equal(before[n], v) for n, v in net.state_dict().items()) and net.training is mode
    kept, total = count(masks)
    assert kept == pytest.approx(total / 2, abs=1)
    for weight, mask in masks.items():
        assert not means[weight][~mask].any() and means[weight].dtype == before[weight].dtype
    net.eval()
    cut = {**before, **{n: before[n] * mask for n, mask in masks.items()}}
    assert distance(net, means, batches) < 0.9 * distance(net, cut, batches)
    sparse = bp.export(net, means, masks, example=batches[0][0])
    with torch.no_grad():
        expected = functional_call(net, means, (batches[0][0],))
        assert torch.allclose(sparse(batches[0][0]), expected, atol=1e-4)


@pytest.mark.parametrize(
    "pattern", [bp.Block(4, 1), bp.Block(4, 4), bp.Channel(0), bp.Channel(1), bp.NM(2, 4)], ids=repr
)
def test_patterns_prune_whole_groups(pattern: bp.Pattern) -> None:
    net, batches = mlp(), data(12)
    means, masks = bp.prune(net, batches, keep=0.5, rules={"2.weight": pattern}, shots=2)
    assert set(masks) == {"2.weight"} and torch.allclose(means["0.weight"], net[0].weight, atol=1e-6)
    layout = bp.BayesianNet(net, {"2.weight": bp.Deterministic(pattern)}).posteriors["2.weight"].layout
    grid = pattern.pool(masks["2.weight"].float(), layout)
    assert bool(((grid == 0) | (grid == pattern.sizes(layout))).all())
    assert float(masks["2.weight"].float().mean()) == pytest.approx(0.5, abs=0.05)


def test_layers_behind_make_up_for_channels_that_go_and_none_leaves_them_alone() -> None:
    net, batches = mlp(), data(12)
    units: dict[Any, Any] = {"0.weight": bp.Channel(0)}
    means, masks = bp.prune(net, batches, keep=0.5, rules=units)
    left, _ = bp.prune(net, batches, keep=0.5, rules={**units, nn.Linear: None})
    assert set(masks) == {"0.weight"} and torch.equal(left["4.weight"], net[4].weight)
    assert distance(net, means, batches) < 0.5 * distance(net, {"0.weight": means["0.weight"]}, batches)


def test_masks_of_any_origin_are_made_up_for() -> None:
    net, batches = mlp(), data(12)
    masks = {n: torch.rand_like(net.get_parameter(n)) < 0.5 for n in ("0.weight", "2.weight")}
    means = bp.condition(net, masks, batches)
    cut = {n: net.get_parameter(n) * m for n, m in masks.items()}
    assert all(not means[n][~m].any() for n, m in masks.items())
    assert distance(net, means, batches) < 0.7 * distance(net, cut, batches)
    with pytest.raises(ValueError, match=r"mask of '0.weight' must be bool of shape"):
        bp.condition(net, {"0.weight": masks["2.weight"]}, batches)


def test_the_same_seed_gives_the_same_net_and_the_generator_is_left_alone() -> None:
    net, batches = Attention(), data(5, 16)
    state = torch.get_rng_state()
    one, two = (bp.prune(net, batches, keep=0.4, shots=1).means for _ in range(2))
    assert all(torch.equal(one[n], two[n]) for n in one) and torch.equal(torch.get_rng_state(), state)


def test_a_loader_that_shuffles_gives_the_same_examples_for_a_seed() -> None:
    net, (x, y) = mlp(), (torch.cat(part) for part in zip(*data(12), strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
    state = torch.get_rng_state()
    one, two = (bp.prune(net, loader, keep=0.5, shots=1, examples=32).means for _ in range(2))
    assert all(torch.equal(one[n], two[n]) for n in one) and torch.equal(torch.get_rng_state(), state)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(data(12))


def test_the_data_count_as_many_as_the_data_set_holds() -> None:
    x, y = (torch.cat(part) for part in zip(*data(12), strict=True))
    whole, bnet = TensorDataset(x, y), bp.BayesianNet(mlp(), {"0.weight": bp.Deterministic()}).eval()
    kinds = [whole, DataLoader(whole, batch_size=16), data(12), DataLoader(Stream(), batch_size=None)]
    sizes = [Calibration.of(bnet, kind, 32, None, None).size for kind in kinds]
    assert sizes == [96, 96, 96, 32]  # a stream does not say
    assert Calibration.of(bnet, whole, 32, None, 1000).size == 1000


class Own(nn.Module):
    """No layer of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 12))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.w)


class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + nn.functional.linear(x, torch.stack([self.a.weight, self.b.weight]).sum(0))


def test_a_net_without_layers_of_torchs_own_is_pruned_by_its_rules() -> None:
    means, masks = bp.prune(Own(), data(12), keep=0.5, rules={"w": bp.Unstructured()})
    assert int(masks["w"].sum()) == 18 and not means["w"][~masks["w"]].any()


def test_all_of_a_layer_is_left_as_it_is_where_everything_stays() -> None:
    net, batches = mlp(), data(12)
    means, masks = bp.prune(net, batches, keep=1.0)
    assert all(bool(m.all()) for m in masks.values()) and distance(net, means, batches) < 1e-8


def test_a_regression_takes_its_noise_from_the_residuals() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1)), torch.randn(200, 6)
    batches = [(x, net(x).detach() + 0.1 * torch.randn(200, 1))]
    means, masks = bp.prune(net, batches, keep=0.3)
    one, _ = count(masks)
    assert one == pytest.approx(0.3 * 224, abs=1)
    cut = {n: net.get_parameter(n) * m for n, m in masks.items()}
    assert distance(net, means, batches) < distance(net, cut, batches)


def test_the_layers_of_transformers_are_followed() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=40, n_positions=12)
    net = transformers.GPT2ForSequenceClassification(config)
    net.config.pad_token_id = 0
    words = torch.randint(1, 40, (16, 12))
    batch = {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": torch.randint(0, 2, (16,))}
    means, masks = bp.prune(net, [batch], keep=0.5, shots=1)
    assert {n.split(".")[-2] for n in masks} == {"c_attn", "c_proj", "c_fc", "score"}
    kept, total = count(masks)
    assert kept == pytest.approx(total / 2, abs=1) and "transformer.wte.weight" not in masks
    assert torch.equal(means["transformer.wte.weight"], net.transformer.wte.weight)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.words(x)).mean(1))


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.a.weight.t()


def test_a_tied_weight_is_left_alone_and_refused_where_it_is_named() -> None:
    words = [(torch.randint(0, 9, (20, 6)), torch.randint(0, 9, (20,)))]
    assert set(bp.prune(Tied(), words, keep=0.5).masks) == {"inner.weight"}
    with pytest.raises(ValueError, match=r"reads 'words.weight' by 'embedding'"):
        bp.prune(Tied(), words, keep=0.5, rules={"words.weight": bp.Unstructured()})


def broken() -> nn.Module:
    net = mlp()
    with torch.no_grad():
        net[2].bias.fill_(float("inf"))
    return net


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.never = nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


@pytest.mark.parametrize(
    ("net", "batches", "arguments", "message"),
    [
        (mlp, [], {}, "holds no batches"),
        (mlp, data(12), {"keep": 0}, "fraction of entries to keep"),
        (mlp, data(12), {"rules": {"gone": bp.Unstructured()}}, "matches no parameter"),
        (mlp, data(12), {"shots": 0}, "shots is an integer ≥ 1, got 0"),
        (Unused, data(12), {}, "never used 'never.weight'"),
        (broken, data(12), {}, "'4.weight' are not finite"),
        (Stacked, data(12), {}, "reads 'a.weight' by 'stack'"),
        (Transposed, data(4), {"rules": {"a.weight": bp.Unstructured()}}, "reads 'a.weight' by 't'"),
        (nn.Flatten, data(12), {}, "no linear or convolution layer"),
    ],
)
def test_what_cannot_be_pruned_is_refused(
    net: Callable[[], nn.Module], batches: Any, arguments: dict[str, Any], message: str
) -> None:
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
        warnings.simplefilter("ignore")
        bp.prune(net(), batches, **{"keep": 0.5, **arguments})
