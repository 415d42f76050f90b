"""Sums, concatenations, groups and views: what is joined goes together or stays."""

import pytest
import torch
import torch.nn.functional as F
from support.branches import Concatenated, Halves, Residual, Shuffled, Squeezed, head
from support.exactly import exact, shape, some, vivid, without
from torch import Tensor, nn


def images(count: int = 2, channels: int = 3, side: int = 8) -> Tensor:
    return torch.randn(count, channels, side, side, dtype=torch.float64)


def conv(into: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out))


def basic(into: int, out: int, stride: int = 1) -> Residual:
    shortcut = None if into == out and stride == 1 else conv(into, out, 1, stride)
    return Residual(nn.Sequential(conv(into, out, 3, stride), nn.ReLU(), conv(out, out)), shortcut)


def bottleneck(into: int, inner: int, out: int) -> Residual:
    body = nn.Sequential(
        conv(into, inner, 1), nn.ReLU(), conv(inner, inner, 3, groups=2), nn.ReLU(), conv(inner, out, 1)
    )
    return Residual(body, conv(into, out, 1))


def inverted(width: int, wide: int) -> Residual:
    body = (conv(width, wide, 1), nn.ReLU6(), conv(wide, wide, 3, groups=wide), nn.ReLU6(), conv(wide, width, 1))
    return Residual(nn.Sequential(*body))


NETS = {
    "basic": lambda: nn.Sequential(conv(3, 6), basic(6, 6), basic(6, 8, 2), head(8)),
    "bottleneck": lambda: nn.Sequential(conv(3, 6), bottleneck(6, 4, 8), bottleneck(8, 4, 8), head(8)),
    "inverted": lambda: nn.Sequential(conv(3, 4), inverted(4, 10), inverted(4, 8), head(4)),
    "dense": lambda: nn.Sequential(conv(3, 4), Concatenated(conv(4, 3)), nn.ReLU(), Concatenated(conv(7, 3)), head(10)),
    "gated": lambda: nn.Sequential(conv(3, 6), nn.SiLU(), Squeezed(6), conv(6, 5), head(5)),
    "shuffled": lambda: nn.Sequential(conv(3, 8), Shuffled(2), conv(8, 8, 3, groups=2), Shuffled(2), head(8)),
    "halves": lambda: nn.Sequential(conv(3, 8), Halves(conv(4, 4)), nn.ReLU(), conv(8, 4), head(4)),
    "grouped": lambda: nn.Sequential(conv(3, 8), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), head(12)),
    "transposed": lambda: nn.Sequential(conv(3, 6), nn.ReLU(), nn.ConvTranspose2d(6, 5, 2, 2), nn.ReLU(), head(5)),
    "shuffle of pixels": lambda: nn.Sequential(conv(3, 16), nn.PixelShuffle(2), nn.ReLU(), conv(4, 5), head(5)),
    "gated halves": lambda: nn.Sequential(conv(3, 12), nn.GLU(1), conv(6, 5), head(5)),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("share", [0.25, 0.6])
def test_results_stay(name: str, share: float) -> None:
    net = vivid(NETS[name]())
    small = exact(net, some(net, share), images(), images(3, side=12))
    assert small.changes


def test_a_sum_goes_where_all_that_is_added_is_a_constant() -> None:
    net = vivid(nn.Sequential(conv(3, 6, 1), Residual(conv(6, 6, 1)), head(6)))
    alone = without(net, **{"0__0__weight": [1, 2], "1__body__0__weight": [2, 3]})
    small = exact(net, alone, images())
    assert shape(small, "0.0.weight")[0] == shape(small, "1.body.0.weight")[0] == shape(small, "2.2.weight")[1] == 5
    assert "reads it" in small.reasons["0.0.weight"] and "reads it" in small.reasons["1.body.0.weight"]


def test_a_residual_stream_that_only_feeds_itself_goes() -> None:
    net = vivid(nn.Sequential(nn.Conv2d(3, 6, 1), basic(6, 6), basic(6, 6), head(6)))
    masks = without(net, **{"3__2__weight": (1, [0, 4])})
    for name in ("1.body.0.0", "1.body.2.0", "2.body.0.0", "2.body.2.0"):
        masks[f"{name}.weight"] = torch.ones(6, 6, 3, 3, dtype=torch.bool)
    for block in (1, 2):  # the stream's channels 0 and 4 are read by the inner channels 0 and 1, which feed 0 and 4
        first, second = masks[f"{block}.body.0.0.weight"], masks[f"{block}.body.2.0.weight"]
        first[2:, [0, 4]] = False
        second[[1, 2, 3, 5], :2] = False
    small = exact(net, masks, images())
    assert shape(small, "1.body.0.0.weight") == shape(small, "2.body.2.0.weight") == (4, 4, 3, 3)


def test_a_concatenation_is_taken_apart() -> None:
    net = vivid(nn.Sequential(conv(3, 4, 1), Concatenated(conv(4, 3, 1)), conv(7, 5, 1), head(5)))
    small = exact(net, without(net, **{"0__0__weight": [0], "1__layer__0__weight": [2]}), images())
    assert small.changes["2.0.weight"].kept[1] == (1, 2, 3, 4, 5)


def test_depthwise_channels_go_with_their_input() -> None:
    net = vivid(nn.Sequential(conv(3, 4), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 2, 1)))
    one = without(net, **{"0__0__weight": [1], "3__weight": (1, [4])})
    small = exact(net, one, images())
    assert small.net[1].groups == 3 and small.net[1].in_channels == 3 and shape(small, "1.weight") == (6, 1, 3, 3)
    padded = vivid(nn.Sequential(conv(3, 4), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 2, 1)))
    assert exact(padded, without(padded, **{"0__0__weight": [1]}), images()).net[1].groups == 4  # a border of its own
    assert exact(padded, without(padded, **{"1__weight": [1]}), images()).net[1].groups == 3


def test_groups_stay_equal() -> None:
    def net() -> nn.Module:
        return vivid(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 2, 1)))

    for gone, groups, sides in (
        ([0, 2, 5, 7], 4, (4, 2, 3, 3)),  # one of each
        ([0, 2], 4, (8, 2, 3, 3)),  # not of each
        ([2, 3], 3, (6, 2, 3, 3)),  # a whole group
        ([0, 2, 3, 4, 7], 3, (3, 2, 3, 3)),  # a whole one, and one of each of the others
    ):
        made = net()
        small = exact(made, without(made, **{"1__weight": gone}), images())
        whole = [group for group in range(4) if {2 * group, 2 * group + 1} <= set(gone)]
        inputs = without(made, **{"0__weight": [i for group in whole for i in (2 * group, 2 * group + 1)]})
        small = exact(made, {**inputs, **without(made, **{"1__weight": gone})}, images())
        assert (small.net[1].groups, shape(small, "1.weight")) == (groups, sides)


def test_a_channel_that_padding_adds_is_of_fixed_size() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(self.b(x) + F.pad(x, (0, 0, 0, 0, 1, 1)))

    net = vivid(Padded())
    small = exact(net, without(net, a__weight=[1], b__weight=[0, 2]), images())
    assert shape(small, "b.weight")[0] in (5, 6)


def test_parameters_that_are_added_go_along() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix = nn.Embedding(11, 6), nn.Linear(6, 6)
            self.positions = nn.Parameter(torch.randn(1, 5, 6))
            self.register_buffer("shift", torch.randn(6))
            self.scale, self.out = nn.Parameter(torch.randn(6)), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.embed(x) + self.positions[:, : x.shape[1]]
            return self.out((y + self.shift + self.mix(y) * self.scale).relu().mean(1))

    net = vivid(Positions())
    masks = without(net, out__weight=(1, [0, 3]), mix__weight=(1, [0, 3]))
    tokens = torch.randint(11, (2, 4))
    small = exact(net, masks, tokens, torch.randint(11, (3, 5)))
    sides = {name: tuple(p.shape) for name, p in small.net.state_dict().items()}
    assert sides["positions"] == (1, 5, 4) and sides["embed.weight"] == (11, 4) and sides["shift"] == (4,)
    assert sides["scale"] == (4,) and sides["mix.weight"] == (4, 4)


def test_a_row_that_nothing_needs_may_lose_what_it_reads() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
            self.c, self.d = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(x + self.b(x)) + self.d(x)

    net = vivid(Two())
    masks = without(net, a__weight=[0], b__weight=[0], c__weight=(1, [1]))
    masks["b.weight"][2:, 0] = False  # the constant 0 is read by row 1 alone, whose sum nothing reads
    small = exact(net, masks, images())
    assert shape(small, "a.weight")[0] == 3
