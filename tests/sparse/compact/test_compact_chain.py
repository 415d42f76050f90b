"""Chains of layers: what goes, what constants become, and that nothing more could go."""

import itertools

import pytest
import torch
from support.exactly import exact, same, shape, some, vivid, without
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import bayesprune as bp
from bayesprune.layout import layout_of
from bayesprune.nets import lenet_5_caffe, vgg_like
from bayesprune.sparse.compact import compact
from bayesprune.sparse.surgery.masked import masked_copy


def images(count: int, channels: int = 3, side: int = 8) -> Tensor:
    return torch.randn(count, channels, side, side, dtype=torch.float64)


def test_dead_outputs_become_part_of_the_next_bias() -> None:
    net = vivid(nn.Sequential(nn.Linear(5, 6), nn.Sigmoid(), nn.Linear(6, 4)))
    small = exact(net, without(net, **{"0__weight": [1, 4]}), torch.randn(3, 5).double(), torch.randn(7, 5).double())
    assert [shape(small, name) for name in ("0.weight", "0.bias", "2.weight")] == [(4, 5), (4,), (4, 4)]
    assert small.changes["0.weight"].kept == ((0, 2, 3, 5), None)
    lost = torch.sigmoid(net[0].bias[[1, 4]]) @ net[2].weight[:, [1, 4]].T
    assert same(small.net[2].bias.detach(), (net[2].bias + lost).detach())
    assert small.masks == {}


def test_what_nothing_reads_goes_and_so_does_what_fed_it() -> None:
    net = vivid(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 2)))
    masks = without(net, **{"4__weight": (1, [0, 1, 2])})
    masks["2.weight"] = torch.ones(7, 6, dtype=torch.bool)
    masks["2.weight"][3:, 5] = False  # hidden unit 5 is read by units 0 to 2 alone, which nothing reads
    small = exact(net, masks, torch.randn(3, 5).double())
    assert [shape(small, name) for name in ("0.weight", "2.weight", "4.weight")] == [(5, 5), (4, 5), (2, 4)]


def test_a_bias_is_made_where_there_was_none() -> None:
    net = vivid(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)))
    small = exact(net, without(net, **{"0__weight": [2]}), torch.randn(2, 4).double())
    assert shape(small, "2.bias") == (3,) and small.changes["2.bias"].old is None
    assert small.net[2].bias.requires_grad


@pytest.mark.parametrize("conv, side", [(nn.Conv1d, 1), (nn.Conv2d, 2), (nn.Conv3d, 3)])
@pytest.mark.parametrize("padding", [0, 1, "same"])
def test_constants_that_meet_zero_padding_share_one_channel(conv: type, side: int, padding: int | str) -> None:
    net = vivid(nn.Sequential(conv(2, 6, 3), nn.Softplus(), conv(6, 3, 3, padding=padding)))
    x = torch.randn(2, 2, *[7] * side).double()
    small = exact(net, without(net, **{"0__weight": [0, 3, 5]}), x, torch.randn(1, 2, *[9] * side).double())
    assert shape(small, "0.weight")[0] == (3 if padding == 0 else 4)
    if padding != 0:
        assert "stand in" in small.reasons["0.weight"]


def test_the_stand_in_is_masked_as_little_as_those_it_stands_for() -> None:
    net = vivid(nn.Sequential(nn.Conv2d(2, 5, 3), nn.Conv2d(5, 4, 3, padding=1)))
    masks = without(net, **{"0__weight": [0, 1]})
    masks["1.weight"] = torch.rand(4, 5, 3, 3) < 0.5
    small = exact(net, masks, images(2, 2))
    assert shape(small, "1.weight") == (4, 4, 3, 3)


def test_a_constant_zero_goes_through_padding() -> None:
    net = vivid(nn.Sequential(nn.Conv2d(2, 5, 3, bias=False), nn.ReLU(), nn.Conv2d(5, 4, 3, padding=1)))
    small = exact(net, without(net, **{"0__weight": [0, 1]}), images(2, 2))
    assert shape(small, "1.weight"[:0] + "2.weight") == (4, 3, 3, 3)


@pytest.mark.parametrize(
    "between",
    [
        nn.BatchNorm2d(6),
        nn.InstanceNorm2d(6, affine=True),
        nn.MaxPool2d(3, 2, padding=1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(3),
        nn.AdaptiveMaxPool2d(3),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Dropout2d(),
        nn.PReLU(6),
        nn.PReLU(),
        nn.Hardswish(),
        nn.LogSigmoid(),
        nn.GELU(approximate="tanh"),
        nn.ReflectionPad2d(1),
        nn.Identity(),
    ],
    ids=str,
)
def test_constants_pass_what_works_within_channels(between: nn.Module) -> None:
    net = vivid(nn.Sequential(nn.Conv2d(3, 6, 3), between, nn.Conv2d(6, 4, 1)))
    small = exact(net, without(net, **{"0__weight": [1, 2]}), images(2), images(5, side=10))
    assert shape(small, "0.weight")[0] == shape(small, "2.weight")[1] == 4


@pytest.mark.parametrize(
    "between, left", [(nn.AvgPool2d(3, 2, padding=1), 5), (nn.ZeroPad2d(1), 5), (nn.ConstantPad2d(1, 0.5), 6)], ids=str
)
def test_of_constants_that_a_border_of_zeros_changes_one_stands_in(between: nn.Module, left: int) -> None:
    net = vivid(nn.Sequential(nn.Conv2d(3, 6, 3), between, nn.Conv2d(6, 4, 3)))
    assert shape(exact(net, without(net, **{"0__weight": [1, 2]}), images(2)), "0.weight")[0] == left
    small = exact(net, without(net, **{"2__weight": (1, [1, 2])}), images(2))  # but what nothing reads goes
    assert shape(small, "0.weight")[0] == 4


def test_batch_norm_after_a_linear_layer() -> None:
    net = vivid(nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)))
    small = exact(net, without(net, **{"0__weight": [1]}), torch.randn(3, 4).double())
    assert small.net[1].num_features == 5 and small.net[1].running_mean.shape == (5,)


def test_a_masked_factor_of_batch_norm_makes_its_channel_a_constant() -> None:
    net = vivid(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)))
    small = exact(net, without(net, **{"1__weight": [2, 3]}), images(2))
    assert shape(small, "0.weight")[0] == 4


def test_flattened_channels_are_blocks_of_features() -> None:
    net = vivid(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)))
    small = exact(net, without(net, **{"0__weight": [0]}), images(2), images(3))
    assert shape(small, "3.weight") == (5, 108)
    block = without(net, **{"3__weight": (1, list(range(36, 72)))})
    assert shape(exact(net, block, images(2)), "0.weight")[0] == 3
    part = without(net, **{"3__weight": (1, list(range(36, 71)))})
    assert shape(exact(net, part, images(2)), "0.weight")[0] == 4


@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
def test_lenet(share: float) -> None:
    net = vivid(lenet_5_caffe())
    small = exact(net, some(net, share), images(2, 1, 28))
    with torch.no_grad():
        assert (small.net(images(1, 1, 28)).shape) == (1, 10)


def test_vgg() -> None:
    net = vivid(vgg_like(width=0.1))
    small = exact(net, some(net, 0.4, (0,)), images(2, 3, 32), images(1, 3, 32))
    assert sum(p.numel() for p in small.net.parameters()) < 0.5 * sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("pattern", [bp.Channel(0), bp.Channel(1), bp.Block(2, 2)], ids=repr)
def test_masks_of_patterns(pattern: bp.Pattern) -> None:
    net = vivid(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 6), nn.ReLU(), nn.Linear(6, 2))
    )
    masks = {}
    for name in ("0.weight", "3.weight"):
        layout = layout_of(net, name)
        masks[name] = pattern.expand(torch.rand(pattern.groups(layout)) < 0.4, layout).clone()
    exact(net, masks, images(2))


def test_everything_gone_leaves_one_of_each() -> None:
    net = vivid(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 4), nn.Linear(4, 2))
    )
    masks = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in net.named_parameters() if p.dim() > 1}
    small = exact(net, masks, images(2))
    assert [shape(small, f"{i}.weight") for i in (0, 3, 4)] == [(1, 3, 3, 3), (1, 64), (2, 1)]
    assert "one has to be left" in small.reasons["0.weight"]


def test_half_precision_and_single_precision() -> None:
    for dtype, within in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        net = vivid(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))).to(dtype)
        masks = some(net, 0.4, (0,))
        small = compact(net, {}, masks, example=torch.randn(3, 8).to(dtype))
        x = torch.randn(5, 8).to(dtype)
        with torch.no_grad():
            a, b = masked_copy(net, {}, masks)(x), small.net(x)
        assert b.dtype == dtype and float((a - b).abs().max()) <= within * float(a.abs().max())


def test_training_goes_on() -> None:
    net = vivid(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 2)))
    net[0].weight.requires_grad_(False)
    small = exact(net, without(net, **{"0__weight": [1, 2]}), images(2)).net.train()
    assert not small[0].weight.requires_grad and small[4].weight.requires_grad
    optimizer = torch.optim.SGD([p for p in small.parameters() if p.requires_grad], 0.1)
    before = small[4].weight.detach().clone()
    small(images(4)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, small[4].weight) and small[1].running_mean.shape == (4,)


def test_flops_fall_as_counted_by_hand() -> None:
    net = vivid(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 5)))
    small = exact(net, without(net, **{"0__weight": [0, 1], "2__weight": [3]}), images(2))
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        small.net(images(1))
    by_hand = 2 * (6 * 3 * 9 * 36 + 5 * 6 * 9 * 16 + 5 * 80)
    assert counted.get_total_flops() == by_hand


def _most(first: Tensor, second: Tensor) -> int:
    """By brute force: the most hidden units of ``first, ReLU, second`` that go without a change."""
    hidden = range(first.shape[0])
    for count in range(first.shape[0], -1, -1):
        for gone in itertools.combinations(hidden, count):
            if all(not first[i].any() or not second[:, i].any() for i in gone):
                return count
    return 0


@pytest.mark.parametrize("seed", range(5))
def test_as_many_go_as_brute_force_finds(seed: int) -> None:
    torch.manual_seed(seed)
    net = vivid(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3)))
    masks = {"0.weight": torch.rand(6, 3) < 0.35, "2.weight": torch.rand(3, 6) < 0.35}
    small = exact(net, masks, torch.randn(2, 3).double())
    assert 6 - shape(small, "0.weight")[0] == min(5, _most(masks["0.weight"], masks["2.weight"]))
