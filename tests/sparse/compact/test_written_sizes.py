"""Sizes that a forward holds in integers of its module follow; what is written into it stays, and that alone."""

from itertools import count

import pytest
import torch
import torch.nn.functional as F
from support.exactly import exact, shape, size, vivid, without
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.sparse.compact import compact

E, H = 32, 4
COUNTED = count()
TOKENS = torch.randn(2, 5, E, dtype=torch.float64)
IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64)
HEADS = [*range(8, 16), *range(24, 32)]


class Attention(nn.Module):
    """Ends in a view by a size of its own, of torch, or written in."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim, self.how = H, E // H, E, how
        self.qkv, self.proj = nn.Linear(E, 3 * E), nn.Linear(E, E)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        if self.how == "integer":
            return self.proj(y.reshape(b, t, self.attn_dim))
        return self.proj(y.reshape(b, t, 32) if self.how == "written in" else y.flatten(2))


def heads_of(*paths: str) -> dict[str, list[int] | tuple[int, list[int]]]:
    rows = [32 * part + i for part in range(3) for i in HEADS]
    masks: dict[str, list[int] | tuple[int, list[int]]] = {}
    for path in paths:
        masks |= {f"{path}qkv__weight": rows, f"{path}proj__weight": (1, HEADS)}
    return masks


@pytest.mark.parametrize("how, left", [("flat", 2), ("integer", 2), ("written in", 4)])
def test_heads_where_the_result_is_viewed(how: str, left: int) -> None:
    net = vivid(Attention(how))
    small = exact(net, without(net, **heads_of("")), TOKENS, TOKENS[:1, :3])
    assert shape(small, "proj.weight") == (E, 8 * left) and small.net.num_heads == left
    assert ("attn_dim" in small.changes) == (how == "integer") and (net.num_heads, net.attn_dim) == (H, E)
    if how == "written in":
        assert "a size is written into the forward of the net" in small.reasons["qkv.weight"]


def test_one_size_that_is_written_in_keeps_no_other_module_whole() -> None:
    net = vivid(nn.Sequential(Attention("flat"), Attention("written in"), Attention("integer")))
    small = exact(net, without(net, **heads_of("0__", "1__", "2__")), TOKENS)
    assert [shape(small, f"{i}.proj.weight")[1] for i in range(3)] == [16, 32, 16]
    assert set(small.reasons) == {"1.qkv.weight", "1.proj.weight"}
    assert "the forward of 1" in small.reasons["1.qkv.weight"]


class Split(nn.Module):
    """YOLO's C2f: halves of a convolution's result, one of which goes on."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.c, self.how = 8, how
        self.a, self.b, self.d = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.how == "two":
            first, second = y.split((self.c, self.c), 1)
        elif self.how == "one":
            first, second = y.split(self.c, 1)
        elif self.how == "slices":
            first, second = y[:, : self.c], y[:, self.c :]
        else:
            first, second = y.chunk(2, 1) if self.how == "chunk" else y.split(8, 1)
        return self.d(torch.cat([first, second, self.b(second)], 1))


@pytest.mark.parametrize("how, left", [("two", 8), ("one", 8), ("chunk", 8), ("written in", 16), ("slices", 16)])
def test_halves_of_a_size_of_the_module(how: str, left: int) -> None:
    net = vivid(Split(how))
    small = exact(net, without(net, a__weight=[0, 1, 2, 3, 8, 9, 10, 11], b__weight=[0, 1, 2, 3]), IMAGES)
    assert shape(small, "a.weight")[0] == left and shape(small, "b.weight")[0] == 4
    assert (how in ("two", "one")) == ("c" in small.changes)


def test_a_conv1d_that_views_by_its_number_of_features() -> None:
    class Conv1D(nn.Module):
        def __init__(self, nf: int, nx: int) -> None:
            super().__init__()
            self.nf, self.nx = nf, nx
            self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)

    net = vivid(nn.Sequential(Conv1D(12, E), nn.GELU(), Conv1D(E, 12)))
    small = exact(net, without(net, **{"0__weight": (1, [0, 1, 5])}), TOKENS, TOKENS[:1])
    assert shape(small, "0.weight") == (E, 9) and size(small, "0.nf") == small.changes["0.nf"].new == (9,)
    assert small.net[2].nf == E


def test_unflatten_holds_its_sizes_in_a_tuple(tmp_path) -> None:
    net = nn.Sequential(nn.Linear(E, 12), nn.Unflatten(2, (4, 3)), nn.Flatten(2), nn.Linear(12, 2)).eval()
    masks = without(net, **{"0__weight": [3, 4, 5], "3__weight": (1, [3, 4, 5])})
    small = exact(vivid(net), masks, TOKENS)
    assert small.net[1].unflattened_size == (3, 3) and net[1].unflattened_size == (4, 3)
    bp.save(small.net, tmp_path / "m.safetensors")
    again = bp.load(tmp_path / "m.safetensors", net=net)
    assert again[1].unflattened_size == (3, 3) and torch.equal(again(TOKENS), small.net(TOKENS))


def test_a_view_by_a_number_keeps_the_layer_before_it_alone() -> None:
    class Tutorial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 10, 3), nn.Conv2d(10, 20, 3)
            self.fc1, self.fc2 = nn.Linear(320, 50), nn.Linear(50, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv2(self.conv1(x).relu()).relu().view(-1, 320)
            return self.fc2(self.fc1(x).relu())

    net = vivid(Tutorial())
    small = exact(net, without(net, conv1__weight=[0, 1], conv2__weight=list(range(10)), fc1__weight=[7]), IMAGES)
    assert [shape(small, f"{name}.weight")[0] for name in ("conv1", "conv2", "fc1")] == [8, 20, 49]
    assert "a size is written into the forward of the net" in small.reasons["conv2.weight"]


def test_a_result_that_is_no_longer_right_is_given_up() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(E, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) * self.a.weight.shape[0]

    net = vivid(Counts())
    small = exact(net, without(net, a__weight=[0]), TOKENS)
    assert shape(small, "a.weight")[0] == 6 and "results would differ" in small.reasons["a.weight"]


def test_a_net_that_is_never_the_same_twice_is_refused() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + next(COUNTED)

    net = nn.Sequential(nn.Linear(E, 6), Noisy(), nn.Linear(6, 2)).eval()
    with pytest.raises(ValueError, match="never the same twice"):
        compact(net, {}, without(net, **{"0__weight": [1]}), example=torch.randn(2, E))
