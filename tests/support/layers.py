"""Every kind of layer, small, with patterns that fit it; and the groups of its entries told one by one. For tests."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bayesprune.draws.gaussian import Estimator
from bayesprune.methods import Method, Posterior
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.patterns import NM, Block, Channel, Heads, Pattern, Unstructured
from support.modules import Conv1D, First, Tied, sequence
from support.passes import draw_and_run

seed = torch.default_generator.manual_seed  # torch.manual_seed looks for accelerators, which takes longer than a test


def randomised(net: nn.Module) -> nn.Module:
    """``net`` with every parameter at random, biases, norms and padding rows too."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    return net


@dataclass(frozen=True)
class Layer:
    """How to make a net, its inputs, a glob over the weights that get a method, and patterns that fit them."""

    make: Callable[[], nn.Module]
    inputs: tuple[Any, ...]
    glob: str
    patterns: tuple[Pattern, ...]

    def net(self) -> nn.Module:
        """The same net at every call."""
        seed(0)
        return randomised(self.make())

    def over(self, method: Method, estimator: Estimator = "local") -> tuple[nn.Module, BayesianNet]:
        net = self.net()
        return net, BayesianNet(net, {self.glob: method}, estimator=estimator)


ANY = (Unstructured(), Channel(0))
VECTOR = (*ANY, Block(3, 1))
SQUARE = (*ANY, Channel(1), Block(3, 5), Heads(2), NM(2, 4))
S, WIDE, WIDER = sequence(5, 2, 8), sequence(7, 2, 6), sequence(7, 2, 5)
TOKENS = torch.tensor([[0, 1, 2, 6], [3, 4, 5, 1]])


def conv(make: Callable[[], nn.Module], inputs: tuple[int, ...], *more: Pattern) -> Layer:
    return Layer(make, (sequence(3, *inputs),), "weight", (*ANY, Channel(1), *more))


def recurrent(make: Callable[[], nn.Module], gates: int, *inputs: Any) -> Layer:
    unit = Heads(2, packed=gates)  # a hidden unit's rows of all gates
    return Layer(make, inputs, "*weight_*", (*ANY, Channel(1), Block(2, 2), unit, NM(1, 2)))


LAYERS: dict[str, Layer] = {
    "linear": Layer(lambda: nn.Linear(12, 8), (sequence(5, 12),), "weight", SQUARE),
    "Hugging Face Conv1D": Layer(lambda: Conv1D(8, 12), (sequence(5, 12),), "weight", SQUARE),
    "conv1d": conv(lambda: nn.Conv1d(4, 6, 2), (4, 5), Block(4, 3), Heads(2), NM(2, 4)),
    "conv2d": conv(lambda: nn.Conv2d(3, 4, 2), (3, 3, 3), Block(3, 2), Heads(2), NM(1, 2)),
    "conv3d": conv(lambda: nn.Conv3d(2, 3, (1, 2, 2)), (2, 2, 2, 2), Block(2, 2), NM(1, 2)),
    "transposed conv1d": conv(lambda: nn.ConvTranspose1d(4, 6, 2), (4, 3), Block(4, 3), Heads(2), NM(2, 4)),
    "transposed conv2d": conv(lambda: nn.ConvTranspose2d(3, 4, 2), (3, 2, 2), Block(3, 2), Heads(2), NM(1, 2)),
    "transposed conv3d": conv(lambda: nn.ConvTranspose3d(2, 3, (1, 2, 2)), (2, 2, 2, 2), Block(2, 2), NM(1, 2)),
    "grouped conv": conv(lambda: nn.Conv2d(6, 4, 2, groups=2), (6, 3, 3), Block(2, 2), NM(1, 3)),
    "depthwise conv": conv(lambda: nn.Conv2d(3, 9, 2, groups=3), (3, 3, 3), Block(2, 1)),
    "grouped transposed conv": conv(lambda: nn.ConvTranspose2d(6, 4, 2, groups=2), (6, 2, 2), Block(1, 2), NM(1, 3)),
    "depthwise transposed conv": conv(lambda: nn.ConvTranspose1d(3, 9, 2, groups=3), (3, 3), Block(2, 1)),
    "square transposed conv": Layer(  # its grid has the weight's shape, transposed
        lambda: nn.ConvTranspose1d(3, 3, 2), (sequence(3, 3, 3),), "weight", (Block(1, 1),)
    ),
    "embedding": Layer(lambda: nn.Embedding(7, 5), (TOKENS,), "weight", (*ANY, Channel(1), Block(3, 2), NM(1, 2))),
    "embedding bag": Layer(lambda: nn.EmbeddingBag(7, 5), (TOKENS,), "weight", (*ANY, Channel(1), Block(3, 2))),
    "attention": Layer(lambda: First(nn.MultiheadAttention(8, 2)), (S, S, S), "m.*proj*weight", SQUARE),
    "attention over other widths": Layer(
        lambda: First(nn.MultiheadAttention(8, 2, kdim=6, vdim=5)), (S, WIDE, WIDER), "m.*proj*weight", SQUARE
    ),
    "attention's biases": Layer(
        lambda: First(nn.MultiheadAttention(8, 2)), (S, S, S), "m.in_proj_bias", (*VECTOR, Heads(2))
    ),
    "encoder layer": Layer(
        lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu"), (S,), "[sl]*weight", SQUARE
    ),
    "LSTM": recurrent(lambda: First(nn.LSTM(4, 2, num_layers=2, bidirectional=True)), 4, sequence(5, 2, 4)),
    "GRU": recurrent(lambda: First(nn.GRU(4, 2)), 3, sequence(5, 2, 4)),
    "RNN": recurrent(lambda: First(nn.RNN(4, 2, num_layers=2)), 1, sequence(5, 2, 4)),
    "LSTM cell": recurrent(lambda: First(nn.LSTMCell(4, 2)), 4, sequence(5, 4), (sequence(5, 2), sequence(5, 2))),
    "GRU cell": recurrent(lambda: nn.GRUCell(4, 2), 3, sequence(5, 4), sequence(5, 2)),
    "tied": Layer(Tied, (sequence(4, 3),), "a.weight", (Unstructured(), Channel(1), Block(2, 2), NM(1, 2))),
    "bias": Layer(lambda: nn.Linear(4, 8), (sequence(5, 4),), "bias", VECTOR),
    "layer norm": Layer(lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)), (sequence(5, 4),), "1.*", VECTOR),
    "batch norm": Layer(
        lambda: nn.Sequential(nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4)), (sequence(3, 2, 3, 3),), "1.*", VECTOR
    ),
}


def labels(net: nn.Module, name: str, pattern: Pattern) -> Tensor:
    """The number of the group that each entry of a weight belongs to, of the weight's shape."""
    path, _, leaf = name.rpartition(".")
    owner, shape = net.get_submodule(path), net.get_parameter(name).shape
    entry = torch.arange(shape.numel()).reshape(shape)
    if isinstance(pattern, (Unstructured, NM)):
        return entry
    if isinstance(pattern, Channel):
        return torch.arange(shape[pattern.axis]).reshape([-1 if a == pattern.axis else 1 for a in range(len(shape))])
    convolution = isinstance(owner, _ConvNd) and leaf == "weight"
    inputs_first = leaf == "weight" and (owner.transposed if convolution else type(owner).__name__ == "Conv1D")
    first, second, *kernel = (*shape, 1)[: max(len(shape), 2)]
    positions = math.prod(kernel)
    first //= owner.groups if convolution else 1
    position, b, a = entry % positions, entry // positions % second, entry // positions // second
    group, a = a // first, a % first
    (out, outs), (into, ins) = ((b, second), (a, first)) if inputs_first else ((a, first), (b, second))
    if isinstance(pattern, Block):
        rows, cols = math.ceil(outs / pattern.h), math.ceil(ins / pattern.w)
        return ((group * rows + out // pattern.h) * cols + into // pattern.w) * positions + position
    assert isinstance(pattern, Heads)
    packed = pattern.packed or (3 if leaf.startswith("in_proj") else 1)
    (at, length) = (into, ins) if (pattern.side == "in" or path.endswith("out_proj")) else (out, outs)
    return at // (length // (packed * pattern.n)) % pattern.n


def some(posterior: Posterior) -> Tensor:
    """Half of the groups, at random but always the same; the only one where there is one."""
    n, kept = posterior.kept.numel(), torch.ones_like(posterior.kept)
    kept.view(-1)[torch.randperm(n, generator=torch.Generator().manual_seed(n))[: n // 2]] = False
    return kept


def prune_some(bnet: BayesianNet) -> None:
    bnet.prune({name: some(posterior) for name, posterior in bnet.posteriors.items()})


def backward(bnet: BayesianNet, inputs: tuple[Any, ...], n: int) -> Tensor:
    """Forward and backward on the data's half of a loss; gradients add up. Returns the last output."""
    for _ in range(n):
        output = draw_and_run(bnet, *inputs)
        (output - 2 * sequence(*output.shape)).square().sum().backward()
    return output.detach()


@contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Classes, modes, values, keys and gradients of ``net`` are afterwards what they were."""

    def state() -> tuple[object, dict[str, Tensor]]:
        facts = [(path, type(m), m.training) for path, m in net.named_modules()], list(net.state_dict())
        return facts, {**dict(net.named_parameters()), **dict(net.named_buffers())}

    facts, tensors = state()
    before = {name: value.detach().clone() for name, value in tensors.items()}
    yield
    assert state()[0] == facts
    assert state()[1].keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in state()[1].items())
    assert all(parameter.grad is None for parameter in net.parameters())
