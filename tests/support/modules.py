"""Modules that know nothing of a Bayesian net: attention, recurrence, tied weights."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune import SparseVD
from bayesprune.methods import Method


class First(nn.Module):
    """The first output of a module that has several."""

    def __init__(self, module: nn.Module, **options: Any) -> None:
        super().__init__()
        self.m, self.options = module, options

    def forward(self, *x: Tensor) -> Tensor:
        return self.m(*x, **self.options)[0]


class Conv1D(nn.Module):
    """Hugging Face's linear layer of GPT-2."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        size = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size)


class Scaled(nn.Module):
    """Weight standardisation by hand: a gain, a mask and a transpose before the product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.gain = nn.Parameter(torch.ones(3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.gain * self.weight * torch.ones(3, 4).tril()).T


class NormWatcher(nn.Module):
    """Looks at its weight without gradients before it uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            length = self.weight.norm()
        return F.linear(x, self.weight / length)


def sequence(*shape: int) -> Tensor:
    return torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float32)).reshape(shape)


MASK = torch.triu(torch.full((5, 5), float("-inf")), 1)

PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])

S, WIDE, WIDER = sequence(5, 2, 8), sequence(7, 2, 6), sequence(7, 2, 5)
PROJECTIONS = {"m.in_proj_weight", "m.in_proj_bias", "m.out_proj.weight", "m.out_proj.bias"}

SEPARATE = {"m.q_proj_weight", "m.k_proj_weight", "m.v_proj_weight", "m.out_proj.weight", "m.out_proj.bias"}

ATTENTION = nn.MultiheadAttention

# name -> (net, inputs, the weights whose activations are sampled)
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...], set[str]]] = {
    "attention": (lambda: First(ATTENTION(8, 2)), (S, S, S), PROJECTIONS),
    "attention without weights": (lambda: First(ATTENTION(8, 2), need_weights=False), (S, S, S), PROJECTIONS),
    "attention with masks": (
        lambda: First(ATTENTION(8, 2), attn_mask=MASK, key_padding_mask=PADDING.float() * -1e9, need_weights=False),
        (S, S, S),
        PROJECTIONS,
    ),
    "attention over other widths": (lambda: First(ATTENTION(8, 2, kdim=6, vdim=5)), (S, WIDE, WIDER), SEPARATE),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        (S,),
        {f"self_attn.{n[2:]}" for n in PROJECTIONS}
        | {f"linear{i}.{leaf}" for i in "12" for leaf in ("weight", "bias")},
    ),
    "GRU": (lambda: First(nn.GRU(8, 3)), (S,), set()),
    "LSTM": (lambda: First(nn.LSTM(8, 2, bidirectional=True)), (S,), set()),
    "GRU cell": (lambda: nn.GRUCell(8, 3), (S[0], sequence(2, 3)), set()),
    "Hugging Face Conv1D": (lambda: Conv1D(4, 8), (S,), {"weight", "bias"}),
    "embedding": (lambda: nn.Embedding(3, 4), (torch.tensor([[0, 1, 2, 1]]),), set()),
    "bilinear": (lambda: nn.Bilinear(8, 6, 2), (S[:, 0], WIDE[:5, 0]), set()),
    "scaled": (Scaled, (sequence(5, 4),), {"weight"}),
    "looked at first": (NormWatcher, (sequence(5, 4),), set()),
    "circular convolution": (
        lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"),
        (sequence(4, 2, 5),),
        {"weight", "bias"},
    ),
}


def weights_of(net: nn.Module, method: Method = SparseVD(init_log_scale=-2.0)) -> dict[str, Method]:  # noqa: B008
    """A rule for every parameter but those of norms and gains."""
    return {n: method for n, _ in net.named_parameters() if "norm" not in n and n != "gain"}


class Tied(nn.Module):
    """One Parameter in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.a(x), self.b(x)]).cumsum(-1)  # other than its channels
