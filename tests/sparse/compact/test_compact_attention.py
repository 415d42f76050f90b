"""Heads and hidden units of attention, torch's own and written by hand."""

import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.exactly import exact, shape, some, vivid, without
from torch import Tensor, nn

from bayesprune.nets import vit
from bayesprune.sparse.layers.attention import SparseAttention

E, H, D = 12, 4, 3


def tokens(count: int = 2, length: int = 5) -> Tensor:
    return torch.randn(count, length, E, dtype=torch.float64)


def heads(path: str, gone: list[int], *sides: str) -> dict[str, Tensor]:
    """Masks that empty heads of the projections named: q, k, v and out."""
    into, out = torch.ones(3, H, D, E, dtype=torch.bool), torch.ones(E, H, D, dtype=torch.bool)
    for side in sides:
        if side == "out":
            out[:, gone] = False
        else:
            into["qkv".index(side), gone] = False
    masks = {f"{path}in_proj_weight": into.view(3 * E, E), f"{path}out_proj.weight": out.view(E, E)}
    return {name: mask for name, mask in masks.items() if not mask.all()}


class Attention(nn.Module):
    """Self-attention, its input added; ``weights`` are given out too where asked for."""

    def __init__(self, weights: bool = False, **settings: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(E, H, batch_first=True, **settings)
        self.weights = weights

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Any:
        y, weights = self.attention(x, x, x, key_padding_mask=padding, need_weights=self.weights)
        return (x + y, weights) if self.weights else x + y


@pytest.mark.parametrize("sides", ["out", "v", "qkv", "qkv out"])
def test_heads_go_whichever_side_is_empty(sides: str) -> None:
    net = vivid(Attention())
    sides_of = sides.split() if sides != "qkv" else list("qkv")
    sides_of = [*"qkv", "out"] if sides == "qkv out" else sides_of
    small = exact(net, heads("attention.", [1, 3], *sides_of), tokens(), tokens(1, 7))
    attention = small.net.attention
    assert isinstance(attention, SparseAttention) and attention.num_heads == 2
    assert shape(small, "attention.out_proj.weight") == (E, 2 * D)
    assert shape(small, "attention.in_proj.weight") == (3 * 2 * D, E)
    assert small.masks == {}


def test_queries_alone_free_no_head() -> None:
    net = vivid(Attention())
    small = exact(net, heads("attention.", [1], "q", "k"), tokens())
    assert small.changes == {} and type(small.net.attention) is nn.MultiheadAttention
    assert "attention.out_proj reads it" in small.reasons["attention.in_proj.weight"]
    assert set(small.masks) == {"attention.in_proj_weight"}


def test_one_head_is_left() -> None:
    small = exact(vivid(Attention()), heads("attention.", [0, 1, 2, 3], *"qkv", "out"), tokens())
    assert small.net.attention.num_heads == 1


@pytest.mark.parametrize("settings", [{"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
def test_settings_of_torchs_attention(settings: dict[str, bool]) -> None:
    net = vivid(Attention(**settings))
    both = exact(net, heads("attention.", [0, 2], *"qkv", "out"), tokens())
    assert both.net.attention.num_heads == 2
    # values added to a head are no part of its bias: where the values' weights alone are gone, their average is none
    alone = exact(net, heads("attention.", [0, 2], "v"), tokens())
    if settings == {"bias": False}:
        assert alone.net.attention.num_heads == 2
    elif "add_zero_attn" in settings:
        assert type(alone.net.attention) is nn.MultiheadAttention


@pytest.mark.parametrize("weights", [False, True])
def test_padding(weights: bool) -> None:
    net = vivid(Attention(weights))
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    small = exact(net, heads("attention.", [1], "out"), (tokens(), padding))
    kept = 4 if weights else 3  # attention weights that are given out are a mean over all heads
    assert small.net.attention.num_heads == kept


def test_queries_keys_and_values_of_their_own() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keys, self.values = nn.Linear(E, 5), nn.Linear(E, 6)
            self.attention = nn.MultiheadAttention(E, H, kdim=5, vdim=6)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + self.attention(x, self.keys(y), self.values(y), need_weights=False)[0]

    net = vivid(Cross())
    masks = without(net, keys__weight=[1], values__weight=[2], attention__q_proj_weight=[0, 1, 2])
    masks |= without(net, attention__k_proj_weight=[0, 1, 2], attention__v_proj_weight=[0, 1, 2])
    x, y = torch.randn(3, 2, E).double(), torch.randn(4, 2, E).double()
    small = exact(net, masks, (x, y))
    assert small.net.attention.num_heads == 3
    assert shape(small, "keys.weight") == (4, E) and shape(small, "attention.k_proj.weight") == (9, 4)
    assert shape(small, "values.weight") == (5, E) and shape(small, "attention.v_proj.weight") == (9, 5)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_an_encoder(first: bool, batch_first: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.TransformerEncoderLayer(E, H, 10, norm_first=first, batch_first=batch_first)
        net = vivid(nn.TransformerEncoder(layer, 2)).eval()
    masks = heads("layers.0.self_attn.", [2], *"qkv", "out")
    masks |= without(net, layers__1__linear1__weight=[0, 4], layers__0__linear2__weight=(1, [1, 2, 3]))
    small = exact(net, masks, tokens())
    assert small.net.layers[0].self_attn.num_heads == 3
    assert type(small.net.layers[1].self_attn) is nn.MultiheadAttention  # of which nothing went
    assert shape(small, "layers.0.linear1.weight") == (7, E) and shape(small, "layers.1.linear1.weight") == (8, E)
    assert small.net.layers[0].activation_relu_or_gelu == 0 and small.net.layers[1].activation_relu_or_gelu == 1
    causal = nn.Transformer.generate_square_subsequent_mask(5).double()
    exact(net, masks, ((tokens(5, 5), causal)) if batch_first else ((tokens(5, 2), causal)))


def test_a_vision_transformer() -> None:
    net = vivid(vit(image=8, patch=4, dim=12, depth=2, heads=4))
    masks = some(net, 0.3, (0,)) | heads("blocks.0.attention.", [0, 1], *"qkv", "out")
    masks |= heads("blocks.1.attention.", [3], "out")
    small = exact(net, masks, torch.randn(2, 3, 8, 8).double(), torch.randn(5, 3, 8, 8).double())
    assert [block.attention.num_heads for block in small.net.blocks] == [2, 3]
    assert "LayerNorm" in small.reasons["patches.weight"]
    assert shape(small, "blocks.0.fc1.weight")[0] < 48


class ByHand(nn.Module):
    """Attention as many write it; ``kind`` says where heads are counted."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.num_heads = kind, H
        self.qkv, self.proj = nn.Linear(E, 3 * E), nn.Linear(E, E)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        qkv = self.qkv(x)
        if self.kind == "counted":  # Heads an attribute, their width what is left
            q, k, v = qkv.reshape(n, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        elif self.kind == "measured":  # the width of a head a number
            q, k, v = (one.view(n, t, -1, D).transpose(1, 2) for one in qkv.chunk(3, -1))
        elif self.kind == "einsum":
            q, k, v = qkv.view(n, t, 3, self.num_heads, -1).unbind(2)
            scores = torch.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(D)
            return self.proj(torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), v).flatten(2))
        else:  # "written": both follow from the input's width
            q, k, v = qkv.reshape(n, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        if self.kind == "measured":
            y = ((q @ k.transpose(-1, -2)) / math.sqrt(D)).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        y = y.transpose(1, 2)
        return self.proj(y.reshape(n, t, c) if self.kind == "written" else y.flatten(2))


@pytest.mark.parametrize("kind, left", [("counted", 3), ("measured", 3), ("einsum", 3), ("written", 4)])
@pytest.mark.parametrize("side", ["in", "out", "both"])
def test_attention_written_by_hand(kind: str, left: int, side: str) -> None:
    net = vivid(nn.Sequential(nn.Linear(E, E), ByHand(kind), nn.LayerNorm(E)))
    mask = torch.ones(3, H, D, E, dtype=torch.bool)
    mask[:, 1] = False
    out = torch.ones(E, H, D, dtype=torch.bool)
    out[:, 1] = False
    masks = {"1.qkv.weight": mask.view(3 * E, E), "1.proj.weight": out.view(E, E)}
    if side != "both":
        del masks["1.proj.weight" if side == "in" else "1.qkv.weight"]
    small = exact(net, masks, tokens(), tokens(3, 4))
    assert shape(small, "1.proj.weight") == (E, left * D)
    if kind == "written":
        assert "a size is written into the forward of 1" in next(iter(small.reasons.values()))


@pytest.mark.parametrize("seed", range(6))
def test_random_masks(seed: int) -> None:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.TransformerEncoderLayer(E, H, 10, norm_first=bool(seed % 2), batch_first=True, activation="gelu")
        net = vivid(nn.Sequential(nn.Linear(E, E), nn.TransformerEncoder(layer, 2), nn.Linear(E, 3)))
    masks = some(net, 0.3) | heads("1.layers.1.self_attn.", [seed % H], *"qkv"[seed % 3 :], "out")
    exact(net, masks, tokens(), tokens(3, 2))


class Windowed(nn.Module):
    """Attention with a table of relative positions for each head, as in Swin (Liu et al., 2021, arXiv:2103.14030)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = H
        self.qkv, self.proj = nn.Linear(E, 3 * E), nn.Linear(E, E)
        self.table = nn.Parameter(torch.randn(9, H))
        self.register_buffer("places", torch.arange(5)[:, None] - torch.arange(5) + 4)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.table[self.places.view(-1)].view(t, t, -1).permute(2, 0, 1)
        scores = q @ k.transpose(-2, -1) * D**-0.5 + bias[None]
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, -1))


def test_a_table_for_each_head_loses_columns() -> None:
    net = vivid(nn.Sequential(nn.Linear(E, E), Windowed()))
    gone = torch.ones(E, H, D, dtype=torch.bool)
    gone[:, [0, 2]] = False
    small = exact(net, {"1.proj.weight": gone.view(E, E)}, tokens(), tokens(4))
    assert shape(small, "1.table") == (9, 2) and shape(small, "1.qkv.weight") == (2 * 3 * D, E)
