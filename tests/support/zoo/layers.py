"""torch.nn's modules one by one, between layers with weights where they have none of their own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from support.zoo.entry import Entry, floats, tokens

__all__ = ["LAYERS"]

ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, lambda: nn.PReLU(8), nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU),
    *(lambda: nn.GELU("tanh"), nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Hardshrink, nn.Softplus),
    *(nn.Softshrink, nn.Softsign, nn.Sigmoid, nn.Tanh, nn.Tanhshrink, nn.LogSigmoid, nn.Identity),
    *(lambda: nn.Threshold(0.1, -2.0), lambda: nn.Softmax(-1), lambda: nn.Softmin(-1), lambda: nn.LogSoftmax(-1)),
    *(lambda: nn.LayerNorm(8), lambda: nn.RMSNorm(8), lambda: nn.BatchNorm1d(8), lambda: nn.GroupNorm(2, 8)),
    *(lambda: nn.Dropout(0.3), lambda: nn.AlphaDropout(0.3), lambda: nn.ReLU(inplace=True)),
    *(lambda: nn.BatchNorm1d(8, affine=False), lambda: nn.BatchNorm1d(8, track_running_stats=False)),
)
BETWEEN_2D: tuple[Callable[[], nn.Module], ...] = (
    *(lambda: nn.MaxPool2d(2), lambda: nn.AvgPool2d(2), lambda: nn.LPPool2d(2, 2), lambda: nn.AdaptiveMaxPool2d(3)),
    *(lambda: nn.AdaptiveAvgPool2d(3), lambda: nn.BatchNorm2d(8), lambda: nn.InstanceNorm2d(8, affine=True)),
    *(lambda: nn.GroupNorm(4, 8), lambda: nn.LocalResponseNorm(3), lambda: nn.ChannelShuffle(2), lambda: nn.GLU(1)),
    *(lambda: nn.PixelShuffle(2), lambda: nn.PixelUnshuffle(2), lambda: nn.Dropout2d(0.2), lambda: nn.Softmax2d()),
    *(lambda: nn.ReflectionPad2d(1), lambda: nn.ReplicationPad2d(1), lambda: nn.ZeroPad2d(1), lambda: nn.PReLU(8)),
    *(lambda: nn.CircularPad2d(1), lambda: nn.ConstantPad2d(1, 0.5), lambda: nn.Upsample(scale_factor=2)),
    *(lambda: nn.UpsamplingBilinear2d(scale_factor=2), lambda: nn.Unfold(2), lambda: nn.CrossMapLRN2d(3)),
    *(lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
)
CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3), (4, 7)),
    "Conv1d, dilated": (lambda: nn.Conv1d(4, 6, 3, dilation=2, padding="same"), (4, 7)),
    "Conv2d": (lambda: nn.Conv2d(4, 8, 3, padding=1), (4, 6, 6)),
    "Conv2d, pointwise": (lambda: nn.Conv2d(4, 8, 1, bias=False), (4, 6, 6)),
    "Conv2d, strided and dilated": (lambda: nn.Conv2d(4, 8, (3, 2), (2, 1), (1, 0), (1, 2)), (4, 7, 6)),
    "Conv2d, grouped": (lambda: nn.Conv2d(4, 8, 3, groups=2), (4, 6, 6)),
    "Conv2d, depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (4, 6, 6)),
    "Conv2d, same": (lambda: nn.Conv2d(4, 8, 3, padding="same"), (4, 6, 6)),
    "Conv2d, reflected": (lambda: nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"), (4, 6, 6)),
    "Conv2d, one channel": (lambda: nn.Conv2d(1, 8, 3, padding=1), (1, 6, 6)),
    "Conv2d, to one channel": (lambda: nn.Conv2d(4, 1, 3), (4, 6, 6)),
    "Conv2d, one column": (lambda: nn.Conv2d(1, 4, (3, 1)), (1, 6, 1)),
    "Conv3d": (lambda: nn.Conv3d(2, 4, 2), (2, 4, 4, 4)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, 2), (4, 5)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), (4, 5, 5)),
    "ConvTranspose2d, grouped": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), (4, 5, 5)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 4, 2), (2, 3, 3, 3)),
}


class Called(nn.Module):
    """A module called with more than one input, or with options."""

    def __init__(self, module: nn.Module, **options: object) -> None:
        super().__init__()
        self.module, self.options = module, options

    def forward(self, *inputs: Tensor) -> object:
        return self.module(*inputs, **self.options)


class Unpooled(nn.Module):
    """Max-pooling undone at the places where it found its maxima."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        pooled, places = self.pool(self.into(x))
        return self.out(self.unpool(pooled, places))


def twice(*shape: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    return lambda n: (torch.randn(n, *shape), torch.randn(n, *shape))


def _named(make: Callable[[], nn.Module]) -> str:
    made = make()
    inner = made.extra_repr()
    return f"{type(made).__name__}({inner})" if inner else type(made).__name__


def _around(make: Callable[[], nn.Module]) -> Entry:
    return Entry(lambda: nn.Sequential(nn.Linear(6, 8), make(), nn.Linear(8, 4)), floats(6))


def _between(make: Callable[[], nn.Module]) -> Entry:
    def net() -> nn.Module:
        first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), make(), nn.Flatten())
        return first.append(nn.Linear(first.eval()(torch.zeros(2, 3, 6, 6)).shape[1], 4))

    return Entry(net, floats(3, 6, 6))


SEQUENCE = floats(5, 8)
OTHERS: dict[str, Entry] = {
    "Linear": Entry(lambda: nn.Linear(12, 8), floats(12)),
    "Linear, without bias": Entry(lambda: nn.Linear(12, 8, bias=False), floats(5, 12)),
    "Bilinear": Entry(lambda: Called(nn.Bilinear(6, 6, 4)), twice(6)),
    "Embedding": Entry(lambda: nn.Embedding(11, 8, padding_idx=0), tokens(5)),
    "Embedding, max_norm": Entry(lambda: nn.Sequential(nn.Embedding(11, 8, max_norm=1.0), nn.Linear(8, 4)), tokens(5)),
    "EmbeddingBag": Entry(lambda: nn.Sequential(nn.EmbeddingBag(11, 8), nn.Linear(8, 4)), tokens(5)),
    "Unflatten": Entry(lambda: nn.Sequential(nn.Linear(6, 8), nn.Unflatten(1, (2, 4)), nn.Linear(4, 3)), floats(6)),
    "Fold": Entry(lambda: nn.Sequential(nn.Unfold(2), nn.Linear(25, 25), nn.Fold((6, 6), 2)), floats(3, 6, 6)),
    "MaxUnpool2d": Entry(Unpooled, floats(3, 6, 6)),
    "RNN": Entry(lambda: nn.RNN(8, 6, 2, batch_first=True), SEQUENCE),
    "GRU": Entry(lambda: nn.GRU(8, 6, batch_first=True, bidirectional=True), SEQUENCE),
    "LSTM": Entry(lambda: nn.LSTM(8, 6, 2, batch_first=True), SEQUENCE),
    "LSTM, projected": Entry(lambda: nn.LSTM(8, 6, proj_size=3, batch_first=True), SEQUENCE),
    "RNNCell": Entry(lambda: nn.RNNCell(8, 6), floats(8)),
    "GRUCell": Entry(lambda: nn.GRUCell(8, 6), floats(8)),
    "LSTMCell": Entry(lambda: nn.LSTMCell(8, 6), floats(8)),
    "MultiheadAttention": Entry(
        lambda: Called(nn.MultiheadAttention(8, 2, batch_first=True)), lambda n: (torch.randn(n, 5, 8),) * 3
    ),
    "MultiheadAttention, without weights": Entry(
        lambda: Called(nn.MultiheadAttention(8, 4, bias=False, batch_first=True), need_weights=False),
        lambda n: (torch.randn(n, 4, 8), *(torch.randn(n, 6, 8),) * 2),
    ),
    "TransformerEncoderLayer": Entry(lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), SEQUENCE),
    "TransformerEncoder": Entry(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, activation="gelu", batch_first=True), 2),
        SEQUENCE,
    ),
    "TransformerDecoderLayer": Entry(
        lambda: Called(nn.TransformerDecoderLayer(8, 2, 12, batch_first=True, norm_first=True)), twice(5, 8)
    ),
    "Transformer": Entry(lambda: Called(nn.Transformer(8, 2, 1, 1, 12, batch_first=True)), twice(5, 8)),
    "CosineSimilarity": Entry(lambda: Compared(nn.CosineSimilarity()), twice(6)),
    "PairwiseDistance": Entry(lambda: Compared(nn.PairwiseDistance()), twice(6)),
    "AdaptiveLogSoftmaxWithLoss": Entry(lambda: Adaptive(), floats(8)),
    "LazyLinear": Entry(lambda: _run_once(nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))), floats(6)),
}


class Compared(nn.Module):
    """Two inputs through one layer, and how alike the results are."""

    def __init__(self, by: nn.Module) -> None:
        super().__init__()
        self.layer, self.by = nn.Linear(6, 8), by

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.by(self.layer(a), self.layer(b))


class Adaptive(nn.Module):
    """Log-probabilities of many classes by an adaptive softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.AdaptiveLogSoftmaxWithLoss(8, 12, [4, 8], div_value=2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head.log_prob(self.body(x).relu())


def _run_once(net: nn.Module) -> nn.Module:
    net(torch.zeros(2, 6))
    return net


LAYERS: dict[str, Entry] = {
    **{_named(make): _around(make) for make in ACTIVATIONS},
    **{f"{_named(make)} of images": _between(make) for make in BETWEEN_2D},
    **{name: Entry(make, floats(*shape)) for name, (make, shape) in CONVOLUTIONS.items()},
    **OTHERS,
}
