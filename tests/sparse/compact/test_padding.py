"""Constants that meet a padding's zeros: in each group of a convolution one stands in for the others."""

import pytest
import torch
from support.exactly import exact, shape, vivid, without
from torch import nn

X = torch.randn(2, 3, 8, 8, dtype=torch.float64)
EACH = [i for i in range(16) if i % 4 < 2]  # half of each group of four


def block(*between: nn.Module, groups: int = 4, padding: int = 1) -> nn.Sequential:
    """ResNeXt's: a convolution in groups behind batch normalisation."""
    net = vivid(
        nn.Sequential(
            nn.Conv2d(3, 16, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            *between,
            nn.Conv2d(16, 16, 3, padding=padding, groups=groups),
            nn.ReLU(),
            nn.Conv2d(16, 4, 1),
        )
    )
    with torch.no_grad():
        net[1].bias.abs_().add_(1)  # so that no constant is cut off by the ReLU
        net[1].running_mean[EACH] = net[0].bias[EACH]
    return net


@pytest.mark.parametrize(
    "between, padding",
    [
        ((), 1),
        ((nn.ZeroPad2d(1),), 0),
        ((nn.AvgPool2d(3, 1, padding=1),), 0),
        ((nn.ZeroPad2d(1), nn.AvgPool2d(2, 1)), 0),
        ((nn.ZeroPad2d((1, 0, 2, 0)), nn.AvgPool2d(3, 1, padding=1)), 1),
    ],
    ids=["padding", "F.pad", "avg_pool", "both", "one after another"],
)
def test_one_constant_in_each_group_stands_in_for_the_others(between: tuple[nn.Module, ...], padding: int) -> None:
    net = block(*between, padding=padding)
    small = exact(net, without(net, **{"0__weight": EACH}), X, X[:1, :, :6])
    assert shape(small, "0.weight")[0] == 12
    assert shape(small, f"{3 + len(between)}.weight")[:2] == (16, 3)
    assert "stand in for other constants" in small.reasons["0.weight"]


def test_what_nothing_reads_goes_as_well() -> None:
    net = block()
    masks = without(net, **{"0__weight": EACH, "3__weight": (1, [0, 1])})
    small = exact(net, masks, X)
    assert shape(small, "0.weight")[0] == 8 and shape(small, "3.weight")[:2] == (16, 2)


def test_without_padding_constants_go_to_the_bias() -> None:
    net = block(padding=0)
    small = exact(net, without(net, **{"0__weight": EACH}), X)
    assert shape(small, "0.weight")[0] == 8


def test_groups_lose_as_many_where_their_masks_differ() -> None:
    net = block()
    small = exact(net, without(net, **{"0__weight": [0, 1, 2, 4, 5, 8, 9, 12, 13]}), X)
    assert shape(small, "3.weight")[:2] == (16, 3)


@pytest.mark.parametrize("pad", [nn.ConstantPad2d(1, 0.5), nn.ReplicationPad2d(1)], ids=["other number", "replicated"])
def test_paddings_of_other_kinds(pad: nn.Module) -> None:
    net = block(pad, padding=0)
    small = exact(net, without(net, **{"0__weight": EACH}), X)
    assert shape(small, "0.weight")[0] == (8 if isinstance(pad, nn.ReplicationPad2d) else 16)


def test_a_depthwise_convolution_keeps_constants_that_meet_its_padding() -> None:
    net = block(groups=16)
    small = exact(net, without(net, **{"0__weight": EACH}), X)
    assert shape(small, "0.weight")[0] == 16 and small.reasons["0.weight"]
    small = exact(net, without(net, **{"0__weight": EACH, "3__weight": EACH}), X)
    assert shape(small, "0.weight")[0] == 8
