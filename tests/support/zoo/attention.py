"""Attention and mixers over images and sequences."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.zoo.entry import Entry, floats
from support.zoo.images import conv, head

__all__ = ["ATTENTION", "Attention", "Perceptron"]


class Attention(nn.Module):
    """Attention of timm's: one layer for queries, keys and values."""

    def __init__(self, dim: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.causal = heads, dim // heads, causal
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(y.transpose(1, 2).reshape(n, t, c))


class Perceptron(nn.Module):
    def __init__(self, dim: int, wide: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, wide), nn.Linear(wide, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Pre(nn.Module):
    """``x + body(norm(x))``."""

    def __init__(self, dim: int, body: nn.Module) -> None:
        super().__init__()
        self.norm, self.body = nn.LayerNorm(dim), body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(self.norm(x))


class ViT(nn.Module):
    """Patches, a class token, positions, blocks."""

    def __init__(self, *blocks: nn.Module, dim: int = 16) -> None:
        super().__init__()
        self.patch, self.blocks, self.fc = nn.Conv2d(3, dim, 4, 4), nn.Sequential(*blocks), nn.Linear(dim, 5)
        self.cls = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, 5, dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.cls.expand(len(y), -1, -1), y], 1) + self.positions
        return self.fc(self.blocks(y)[:, 0])


class Mixed(nn.Module):
    """MLP-Mixer's block: a perceptron over tokens, one over channels."""

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.tokens, self.channels = Perceptron(tokens, 8), Perceptron(dim, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.n1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.n2(x))


class Gated(nn.Module):
    """gMLP's unit: one half is gated by a product over tokens of the other."""

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.norm, self.mix = nn.LayerNorm(dim), nn.Conv1d(tokens, tokens, 1)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.into(x)).chunk(2, -1)
        return x + self.out(u * self.mix(self.norm(v)))


class SwiGLU(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(dim, 24), nn.Linear(24, dim), nn.Linear(dim, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Window(nn.Module):
    """Swin: attention within windows, shifted, with a bias by relative place."""

    def __init__(self, dim: int, window: int = 2, shift: int = 1) -> None:
        super().__init__()
        self.w, self.shift, self.heads = window, shift, 2
        self.norm, self.qkv, self.proj = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, self.heads))
        at = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + window - 1
        self.register_buffer("index", apart[0] * (2 * window - 1) + apart[1])

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-self.shift, -self.shift), (1, 2))
        y = y.view(n, h // self.w, self.w, w // self.w, self.w, c).transpose(2, 3).reshape(-1, self.w**2, c)
        q, k, v = self.qkv(y).view(len(y), -1, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index].permute(2, 0, 1)
        y = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + bias).softmax(-1) @ v
        y = self.proj(y.transpose(1, 2).reshape(len(y), -1, c))
        y = y.view(n, h // self.w, w // self.w, self.w, self.w, c).transpose(2, 3).reshape(n, h, w, c)
        return x + torch.roll(y, (self.shift, self.shift), (1, 2))


class Swin(nn.Module):
    """Windows, patches merged, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.a, self.b = nn.Conv2d(3, 8, 2, 2), Window(8, shift=0), Window(8)
        self.merge, self.fc = nn.Linear(32, 16, bias=False), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(self.patch(x).permute(0, 2, 3, 1)))
        y = torch.cat([y[:, 0::2, 0::2], y[:, 1::2, 0::2], y[:, 0::2, 1::2], y[:, 1::2, 1::2]], -1)
        return self.fc(self.merge(y).mean((1, 2)))


class Linear(nn.Module):
    """Attention whose cost is linear in the tokens: a kernel in place of the softmax."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1
        context = torch.einsum("ntd,nte->nde", k, self.v(x))
        return self.out(torch.einsum("ntd,nde->nte", q, context) / (q @ k.sum(1)[..., None]))


class Grouped(nn.Module):
    """Rotary attention with fewer keys than queries."""

    def __init__(self, dim: int, heads: int = 4, kv: int = 2) -> None:
        super().__init__()
        self.heads, self.kv, self.d = heads, kv, dim // heads
        self.q, self.k = nn.Linear(dim, dim, bias=False), nn.Linear(dim, kv * self.d, bias=False)
        self.v, self.o = nn.Linear(dim, kv * self.d, bias=False), nn.Linear(dim, dim, bias=False)

    def turned(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] / 10 ** torch.arange(self.d // 2, dtype=x.dtype)
        cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q = self.turned(self.q(x).view(n, t, self.heads, self.d).transpose(1, 2))
        k = self.turned(self.k(x).view(n, t, self.kv, self.d).transpose(1, 2))
        v = self.v(x).view(n, t, self.kv, self.d).transpose(1, 2)
        k, v = (y.repeat_interleave(self.heads // self.kv, 1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(n, t, -1))


class NonLocal(nn.Module):
    """Attention over the places of an image, by 1×1 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.theta, self.phi, self.g = (nn.Conv2d(width, 4, 1) for _ in range(3))
        self.out = nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))
        y = (q.transpose(1, 2) @ k).softmax(-1) @ v.transpose(1, 2)
        return x + self.out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


class Perceiver(nn.Module):
    """A few learned queries read the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(3, 16))
        self.cross, self.mlp = nn.MultiheadAttention(16, 4, batch_first=True), Pre(16, Perceptron(16, 24))

    def forward(self, x: Tensor) -> Tensor:
        q = self.latents.expand(len(x), -1, -1)
        return self.mlp(self.cross(q, x, x, need_weights=False)[0]).mean(1)


class PoolFormer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.n1, self.n2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.fc1, self.fc2 = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.n1(x)
        x = x + F.avg_pool2d(y, 3, 1, 1, count_include_pad=False) - y
        return x + self.fc2(F.gelu(self.fc1(self.n2(x))))


IMAGE, SEQUENCE = floats(3, 8, 8), floats(5, 16)
ATTENTION: dict[str, Entry] = {
    "ViT": Entry(lambda: ViT(Pre(16, Attention(16, 4)), Pre(16, Perceptron(16, 24))), IMAGE),
    "ViT with torch's attention": Entry(
        lambda: ViT(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=True)), IMAGE
    ),
    "MLP-Mixer": Entry(lambda: ViT(Mixed(5, 16)), IMAGE),
    "gMLP": Entry(lambda: ViT(Gated(5, 16)), IMAGE),
    "Swin": Entry(Swin, IMAGE),
    "PoolFormer": Entry(lambda: nn.Sequential(conv(3, 8), PoolFormer(8), head(8)), IMAGE),
    "non-local": Entry(lambda: nn.Sequential(conv(3, 8), NonLocal(8), head(8)), IMAGE),
    "linear attention": Entry(lambda: Pre(16, Linear(16)), SEQUENCE),
    "Llama block": Entry(lambda: nn.Sequential(Pre(16, Grouped(16)), Pre(16, SwiGLU(16))), SEQUENCE),
    "GPT block": Entry(lambda: nn.Sequential(Pre(16, Attention(16, 2, True)), Pre(16, Perceptron(16, 32))), SEQUENCE),
    "Perceiver": Entry(Perceiver, SEQUENCE),
}
