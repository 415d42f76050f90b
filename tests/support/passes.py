"""A small net and passes through a Bayesian net, as an ELBO runs it; shared by tests."""

from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from bayesprune import SparseVD
from bayesprune.methods import Method
from bayesprune.network.bayesian_net import BayesianNet


def draw_and_run(bnet: BayesianNet, *inputs: Any, **options: Any) -> Any:
    """The net's output on one draw from the guide, with gradients, as an ELBO runs it."""
    trace = poutine.trace(bnet.guide).get_trace()
    return poutine.replay(bnet, trace=trace)(*inputs, **options)


def train(bnet: BayesianNet, *inputs: Any, steps: int = 2) -> Tensor:
    """A few passes forward and backward; the first counts how often each weight is used."""
    for _ in range(steps):
        bnet.zero_grad()
        output = draw_and_run(bnet, *inputs)
        output.square().sum().backward()
    return output.detach()


def without_gradient(bnet: BayesianNet) -> list[str]:
    bare = []
    for name, parameter in bnet.named_parameters():
        if parameter.grad is None or not bool(torch.isfinite(parameter.grad).all()) or not bool(parameter.grad.any()):
            bare.append(name)
    return bare


class Images(nn.Module):
    """Convolution, batch norm, dropout, linear, a frozen scale and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(16, 3)
        self.gain = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("shift", torch.full((3,), 0.5))
        self.register_buffer("unsaved", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.conv(x)).relu())
        return self.fc(x.flatten(1)) * self.gain + self.shift + self.unsaved


CERTAIN = SparseVD(init_log_scale=-200.0, clip=(-200.0, 2.0))  # no variance at all


def images(
    seed: int = 0, rules: dict[str, Method] | None = None, **options: Any
) -> tuple[nn.Module, BayesianNet, Tensor]:
    torch.manual_seed(seed)
    net = Images()
    rules = {"conv.weight": SparseVD(), "fc.weight": SparseVD()} if rules is None else rules
    return net, BayesianNet(net, rules, **options), torch.randn(8, 1, 4, 4)
