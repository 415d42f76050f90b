"""Tables that are the same for all heads, and keys and values that several heads share."""

import pytest
import torch
import torch.nn.functional as F
from support.exactly import exact, shape, vivid, without
from torch import Tensor, nn

E, H, D = 32, 4, 8
X = torch.randn(2, 5, E, dtype=torch.float64)
GONE = [*range(8, 16), *range(24, 32)]  # heads 1 and 3


class Rotary(nn.Module):
    """Self-attention whose queries and keys are turned by one table for all heads."""

    def __init__(self, how: str = "rotary") -> None:
        super().__init__()
        self.how = how
        self.q, self.k, self.v, self.o = (nn.Linear(E, E) for _ in range(4))
        self.register_buffer("steps", 1 / 100 ** (torch.arange(0, D, 2) / D))
        self.scale, self.each = nn.Parameter(torch.ones(D)), nn.Parameter(torch.ones(H, 1, D))

    def turned(self, x: Tensor, angles: Tensor) -> Tensor:
        half = torch.cat([-x[..., D // 2 :], x[..., : D // 2]], -1)
        return x * angles.cos() + half * angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(*x.shape[:-1], -1, D).transpose(1, 2) for layer in (self.q, self.k, self.v))
        angles = (torch.arange(x.shape[1])[:, None] * self.steps).repeat(1, 2)
        if self.how == "rotary":
            q, k = self.turned(q, angles), self.turned(k, angles)
        elif self.how == "scaled":
            q, k = q * self.scale, k + self.scale
        elif self.how == "by head":
            q = q * self.each
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


def heads(path: str = "") -> dict[str, list[int] | tuple[int, list[int]]]:
    return {**{f"{path}{name}__weight": GONE for name in "qkv"}, f"{path}o__weight": (1, GONE)}


@pytest.mark.parametrize("how", ["rotary", "plain", "scaled", "by head"])
def test_heads_go_although_a_table_is_the_same_for_all_of_them(how: str) -> None:
    net = vivid(Rotary(how))
    small = exact(net, without(net, **heads()), X, X[:, :3])
    assert shape(small, "q.weight") == (E // 2, E) and shape(small, "o.weight") == (E, E // 2)
    assert not small.reasons


def test_layers_that_share_a_table_lose_heads_of_their_own() -> None:
    net = vivid(nn.Sequential(Rotary(), Rotary()))
    small = exact(net, without(net, **heads("0__")), X)
    assert shape(small, "0.q.weight") == (E // 2, E) and shape(small, "1.q.weight") == (E, E)


def test_entries_of_a_head_stay_where_the_table_varies_along_them() -> None:
    net = vivid(Rotary())
    second = list(range(1, E, D))  # the second entry of each head
    small = exact(net, without(net, q__weight=second, k__weight=second), X)
    assert shape(small, "q.weight") == (E, E) and small.reasons["q.weight"]


def test_a_table_goes_along_where_it_has_an_entry_for_each_channel() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(E, 6), nn.Linear(6, 2)
            self.positions, self.shift = nn.Parameter(torch.randn(1, 5, 6)), nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.b((self.a(x) + self.positions + self.shift).relu())

    net = vivid(Positions())
    small = exact(net, without(net, b__weight=(1, [0, 3])), X)
    assert shape(small, "shift") == (4,) and shape(small, "positions") == (1, 5, 4)


class Shared(nn.Module):
    """Two heads of queries for one of keys and values."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.num_heads, self.per = how, H, 2
        self.q, self.k, self.v, self.o = nn.Linear(E, E), nn.Linear(E, E // 2), nn.Linear(E, E // 2), nn.Linear(E, E)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(*x.shape[:-1], -1, D).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.how == "expand":
            k, v = (t[:, :, None].expand(-1, -1, self.per, -1, -1).flatten(1, 2) for t in (k, v))
        elif self.how == "to all heads":
            k, v = (t[:, :, None].expand(-1, -1, self.per, -1, -1) for t in (k, v))
            k, v = (t.reshape(len(t), self.num_heads, *t.shape[3:]) for t in (k, v))
        elif self.how == "repeat_interleave":
            k, v = (t.repeat_interleave(self.per, 1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.how == "enable_gqa")
        return self.o(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("how", ["expand", "to all heads", "repeat_interleave", "enable_gqa"])
def test_heads_that_share_keys_and_values_go_together(how: str) -> None:
    net = vivid(Shared(how))
    q, kv = list(range(16, 32)), list(range(8, 16))
    masks = without(net, q__weight=q, k__weight=kv, v__weight=kv, o__weight=(1, q))
    small = exact(net, masks, X, X[:1, :3])
    if how == "enable_gqa":
        assert shape(small, "q.weight") == (E, E) and "share keys and values" in small.reasons["q.weight"]
    else:
        assert shape(small, "q.weight") == (E // 2, E) and shape(small, "k.weight") == (E // 4, E)


def test_one_of_two_heads_that_share_keys_stays() -> None:
    net = vivid(Shared("expand"))
    small = exact(net, without(net, q__weight=list(range(8)), o__weight=(1, list(range(8)))), X)
    assert shape(small, "q.weight") == (E, E) and small.reasons["q.weight"]
