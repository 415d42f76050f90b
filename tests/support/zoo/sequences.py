"""Nets over time and text: convolutional, recurrent, attentive."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.zoo.attention import Attention, Perceptron
from support.zoo.entry import Entry, floats, tokens

__all__ = ["SEQUENCES"]


class WaveNet(nn.Module):
    """Gated dilated convolutions, a residual and a sum of skips."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Conv1d(2, 8, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(8, 16, 2, dilation=2**i) for i in range(3))
        self.res, self.skip = (nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3)) for _ in range(2))
        self.out = nn.Conv1d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.into(x), 0
        for i, layer in enumerate(self.dilated):
            a, b = layer(F.pad(x, (2**i, 0))).chunk(2, 1)
            y = a.tanh() * b.sigmoid()
            total = total + self.skip[i](y)
            x = x + self.res[i](y)
        return self.out(F.relu(total))


class Chomp(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.size].contiguous()


def tcn() -> nn.Module:
    """Temporal convolutions, padded and chomped."""
    layers: list[nn.Module] = []
    for i, (into, out) in enumerate(((2, 8), (8, 8))):
        d = 2**i
        layers += [nn.Conv1d(into, out, 3, padding=2 * d, dilation=d), Chomp(2 * d), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, nn.Conv1d(8, 3, 1))


def weight_normed_tcn() -> nn.Module:
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(norm(nn.Conv1d(2, 8, 3, padding=2)), Chomp(2), nn.ReLU(), norm(nn.Conv1d(8, 3, 1)))


class Conformer(nn.Module):
    """Half perceptrons around attention and a gated depthwise convolution."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.ff1, self.ff2, self.attend = Perceptron(dim, 16), Perceptron(dim, 16), Attention(dim, 2)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(5))
        self.pw1, self.dw = nn.Conv1d(dim, 2 * dim, 1), nn.Conv1d(dim, dim, 3, padding=1, groups=dim)
        self.bn, self.pw2 = nn.BatchNorm1d(dim), nn.Conv1d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norms
        x = x + 0.5 * self.ff1(n[0](x))
        x = x + self.attend(n[1](x))
        y = F.glu(self.pw1(n[2](x).transpose(1, 2)), 1)
        x = x + self.pw2(F.silu(self.bn(self.dw(y)))).transpose(1, 2)
        return n[4](x + 0.5 * self.ff2(n[3](x)))


class LanguageModel(nn.Module):
    """Embedding, LSTM, decoder; tied or not."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.encoder, self.rnn, self.decoder = nn.Embedding(11, 8), nn.LSTM(8, 8), nn.Linear(8, 11)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.encoder(x.T))
        return F.log_softmax(self.decoder(y), -1).transpose(0, 1)


class Seq2Seq(nn.Module):
    """GRU encoder, and a decoder that attends to it word by word."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder = nn.Embedding(11, 8), nn.GRU(8, 8, batch_first=True)
        self.cell, self.wa, self.ua, self.va = nn.GRUCell(16, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.out = nn.Linear(8, 11)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, h = self.encoder(self.embed(source))
        h, results = h[0], []
        for word in self.embed(target).unbind(1):
            scores = self.va(torch.tanh(self.wa(h)[:, None] + self.ua(memory))).softmax(1)
            h = self.cell(torch.cat([word, (scores * memory).sum(1)], -1), h)
            results.append(self.out(h))
        return torch.stack(results, 1)


class TextCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.convs, self.fc = nn.ModuleList(nn.Conv2d(1, 4, (k, 8)) for k in (2, 3)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)[:, None]
        return self.fc(torch.cat([F.relu(c(y)).squeeze(3).amax(2) for c in self.convs], 1))


class MiniGPT(nn.Module):
    """Blocks over words and places, output tied to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(11, 16), nn.Embedding(8, 16)
        self.ln1, self.ln2, self.ln = (nn.LayerNorm(16) for _ in range(3))
        self.attend, self.mlp = Attention(16, 4, causal=True), Perceptron(16, 32)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
        y = y + self.attend(self.ln1(y))
        return self.head(self.ln(y + self.mlp(self.ln2(y))))


class Packed(nn.Module):
    """Sequences of different lengths, packed."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.fc(self.rnn(packed)[1][0])


class LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc = nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, _) = self.rnn(x)
        return self.fc(torch.cat([h[-2], h[-1]], 1))


class NBeats(nn.Module):
    """Each block takes what it explains away from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 11)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        forecast = x.new_zeros(len(x), 3)
        for block in self.blocks:
            back, ahead = block(x).split([8, 3], 1)
            x, forecast = x - back, forecast + ahead
        return forecast


class StateSpace(nn.Module):
    """A linear recurrence, a channel each, between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out, self.decay = nn.Linear(4, 8), nn.Linear(8, 4), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        h, states = x.new_zeros(len(x), 8), []
        for u in self.into(x).unbind(1):
            h = self.decay.sigmoid() * h + u
            states.append(h)
        return self.out(torch.stack(states, 1))


class Quasi(nn.Module):
    """Highway: a gate between the input and what a layer makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.h, self.t = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        t = self.t(x).sigmoid()
        return torch.lerp(x, self.h(x).relu(), t)


class FNet(nn.Module):
    """Tokens mixed by a Fourier transform."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(8), Perceptron(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x + torch.fft.fft2(x).real)
        return y + self.mlp(y)


def _lengths(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 5, 4), torch.arange(n) % 4 + 2


TIME = floats(2, 12)
SEQUENCES: dict[str, Entry] = {
    "WaveNet": Entry(WaveNet, TIME),
    "TCN": Entry(tcn, TIME),
    "TCN, weight-normed": Entry(weight_normed_tcn, TIME),
    "Conformer": Entry(Conformer, floats(6, 8)),
    "LSTM LM": Entry(lambda: LanguageModel(False), tokens(5)),
    "LSTM LM, tied": Entry(lambda: LanguageModel(True), tokens(5)),
    "seq2seq with attention": Entry(Seq2Seq, lambda n: (tokens(5)(n), tokens(4)(n))),
    "TextCNN": Entry(TextCNN, tokens(6)),
    "mini GPT": Entry(MiniGPT, tokens(6)),
    "packed sequences": Entry(Packed, _lengths),
    "last states": Entry(LastState, floats(5, 4)),
    "N-BEATS": Entry(NBeats, floats(8)),
    "state space": Entry(StateSpace, floats(5, 4)),
    "highway": Entry(lambda: nn.Sequential(Quasi(), Quasi(), nn.Linear(8, 3)), floats(8)),
    "FNet": Entry(FNet, floats(6, 8)),
}
