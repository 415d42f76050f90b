"""Layers that are called several times, whose results are dropped, or that hooks watch; results that hold a cache."""

from typing import Any

import pytest
import torch
from support.exactly import exact, shape, vivid, without
from torch import Tensor, nn

from bayesprune.sparse.compact import compact

X = torch.randn(2, 3, 8, 8, dtype=torch.float64)
ROWS = torch.randn(3, 4, dtype=torch.float64)


def head() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))


class Pyramid(nn.Module):
    """RetinaNet's: one head for images of several sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 1), head()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.stem(x)
        return self.head(y), self.head(nn.functional.max_pool2d(y, 2))


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)), nn.Linear(5, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.out((self.body(a) - self.body(b)).abs())


class Again(nn.Module):
    """ALBERT's: one block after itself."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.out = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + self.block(x)
        return self.out(x)


class ConvLSTM(nn.Module):
    """Begins with zeros of the size that the cell holds in an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 5
        self.gates, self.out = nn.Conv2d(3 + 5, 4 * 5, 3, padding=1), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(len(x), self.hidden, *x.shape[2:], dtype=x.dtype)
        for _ in range(3):
            i, f, o, g = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.out(h)


def test_a_head_for_several_sizes() -> None:
    net = vivid(Pyramid())
    small = exact(net, without(net, head__0__weight=[0, 2, 4, 6]), X, X[:1])
    assert shape(small, "head.0.weight")[0] == shape(small, "head.3.weight")[1] == 5  # one stands in for constants
    small = exact(net, without(net, head__0__weight=[0, 2], head__3__weight=(1, [0, 2])), X)
    assert shape(small, "head.0.weight")[0] == small.net.head[1].num_features == 6


def test_an_input_that_only_one_of_two_calls_leaves_empty_stays() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x)) + self.c(self.b(x)).tanh()

    net = vivid(Two())
    small = exact(net, without(net, a__weight=[0, 1], b__weight=[1]), ROWS)
    assert shape(small, "c.weight") == (2, 6)  # channel 1 is a constant in both, but another one
    with torch.no_grad():
        net.b.bias[1] = net.a.bias[1]
    small = exact(net, without(net, a__weight=[0, 1], b__weight=[1]), ROWS)
    assert shape(small, "c.weight") == (2, 5) and shape(small, "a.weight") == (5, 4)
    small = exact(net, without(net, c__weight=(1, [3])), ROWS)
    assert shape(small, "a.weight") == shape(small, "b.weight") == (5, 4)


def test_siamese_nets_and_blocks_after_themselves() -> None:
    net = vivid(Siamese())
    small = exact(net, without(net, body__0__weight=[1, 2], body__2__weight=[3]), (ROWS, ROWS.flip(0)))
    assert shape(small, "body.2.weight") == (4, 4) and shape(small, "out.weight") == (1, 4)
    again = vivid(Again())
    small = exact(again, without(again, block__0__weight=[1, 2]), ROWS)
    assert shape(small, "block.0.weight") == (4, 4)


def test_the_state_of_a_recurrent_cell_follows() -> None:
    net = vivid(ConvLSTM())
    gone = [5 * gate + i for gate in range(4) for i in (1, 3)]
    masks = without(net, gates__weight=gone, out__weight=(1, [1, 3]))
    masks["gates.weight"][:, [4, 6]] = False
    small = exact(net, masks, X)
    assert shape(small, "gates.weight") == (12, 6, 3, 3) and small.net.hidden == 3


def test_a_weight_that_is_also_used_otherwise_stays() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.a(x).relu(), self.a.weight.t()) * self.a.weight.sum()

    net = vivid(Tied())
    small = exact(net, without(net, a__weight=[1]), ROWS)
    assert shape(small, "a.weight") == (6, 4) and small.reasons["a.weight"]


class Drops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.unused = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        self.unused(h)
        return self.b(h)


class Wave(nn.Module):
    """WaveNet's: the last residual convolution's sum is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.r, self.s = (
            nn.ModuleList(nn.Conv1d(*sides, 1) for _ in range(2)) for sides in ((8, 16), (8, 8), (8, 4))
        )

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.zeros((), dtype=x.dtype)
        for f, r, s in zip(self.f, self.r, self.s, strict=True):
            a, b = f(x).chunk(2, 1)
            z = a.tanh() * b.sigmoid()
            skip, x = skip + s(z), x + r(z)
        return skip


def test_a_layer_whose_result_is_dropped_reads_what_is_left() -> None:
    net = vivid(Drops())
    small = exact(net, without(net, a__weight=[0, 1, 2]), ROWS)
    assert shape(small, "a.weight") == (5, 4) and shape(small, "unused.weight") == (3, 5)
    dense = vivid(Drops())
    before = dense.unused(dense.a(ROWS).relu())
    small = exact(dense, {}, ROWS)
    assert torch.equal(small.net.unused(small.net.a(ROWS).relu()), before)
    small = exact(net, without(net, a__weight=[0, 1, 2]), ROWS, skip=("unused",))
    assert shape(small, "a.weight") == (8, 4) and "skip names unused" in small.reasons["a.weight"]


def test_a_sum_that_is_dropped() -> None:
    net = vivid(Wave())
    gone = [0, 1, 2, 3, 8, 9, 10, 11]
    small = exact(net, without(net, f__0__weight=gone, f__1__weight=gone), torch.randn(2, 8, 9).double())
    assert [shape(small, f"{name}.weight")[:2] for name in ("f.1", "r.1", "s.1")] == [(8, 8), (8, 4), (4, 4)]


def test_hooks_see_inputs_and_results_and_not_all_within() -> None:
    net = vivid(
        nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)), nn.Linear(6, 2))
    )
    masks = without(net, **{"0__weight": [1], "1__0__weight": [2, 3], "1__2__weight": [4]})
    net[1].register_forward_hook(lambda *_: None)
    small = exact(net, masks, ROWS)
    assert [shape(small, f"{name}.weight")[0] for name in ("0", "1.0", "1.2")] == [6, 6, 6]
    assert "1 carries hooks" in small.reasons["0.weight"] and "1 carries hooks" in small.reasons["1.2.weight"]
    whole = vivid(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    whole.register_forward_hook(lambda *_: None)
    assert shape(exact(whole, without(whole, **{"0__weight": [1]}), ROWS), "0.weight")[0] == 5


class KeyCache:
    """What a decoder keeps for the next token."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys


class Box:
    """A result of a class of one's own."""

    def __init__(self, logits: Tensor, more: Any) -> None:
        self.logits, self.more = logits, more


@pytest.mark.parametrize("more, left", [(KeyCache, 5), (lambda h: [h], 8)], ids=["cache", "list"])
def test_a_cache_among_the_results_is_passed_over(more: Any, left: int) -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Box:
            h = self.a(x).relu()
            return Box(self.b(h), more(h))

    net = vivid(Decoder())
    small = compact(net, {}, without(net, a__weight=[0, 1, 2]), example=ROWS)
    assert shape(small, "a.weight") == (left, 4)


def test_a_result_without_tensors_is_refused() -> None:
    class Says(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> str:
            return str(self.a(x).shape)

    with pytest.raises(ValueError, match="finds no tensor in what the net returns"):
        compact(vivid(Says()), {}, {}, example=ROWS)
