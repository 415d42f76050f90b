"""Random nets, built from pieces that meet channels in all ways, with random masks."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.branches import Concatenated, Halves, Residual, Shuffled, Squeezed, head
from support.exactly import exact, some, vivid
from torch import Tensor, nn

CHANNELS = 4  # a multiple of 2, so that each piece fits behind each other


def _pieces(width: int) -> dict[str, tuple[nn.Module, int]]:
    """Each piece for that many channels, and how many it gives."""
    wide = width + 2
    return {
        "conv": (nn.Conv2d(width, wide, 3, padding=1), wide),
        "bare": (nn.Conv2d(width, CHANNELS, 3, padding=1, bias=False), CHANNELS),
        "point": (nn.Conv2d(width, CHANNELS, 1), CHANNELS),
        "norm": (nn.BatchNorm2d(width), width),
        "sigmoid": (nn.Sigmoid(), width),
        "relu": (nn.ReLU(inplace=True), width),
        "residual": (Residual(nn.Sequential(nn.Conv2d(width, 3, 1), nn.ReLU(), nn.Conv2d(3, width, 1))), width),
        "beside": (Concatenated(nn.Conv2d(width, 2, 3, padding=1)), wide),
        "depthwise": (nn.Conv2d(width, width, 3, padding=1, groups=width), width),
        "grouped": (nn.Conv2d(width, width, 1, groups=2), width),
        "gate": (Squeezed(width), width),
        "shuffle": (Shuffled(2), width),
        "halves": (Halves(nn.Conv2d(width // 2, width // 2, 1)), width),
        "pool": (nn.MaxPool2d(3, 1, padding=1), width),
        "mean": (nn.AvgPool2d(3, 1, padding=1), width),
        "layers": (nn.GroupNorm(1, width), width),
    }


NAMES = sorted(_pieces(CHANNELS))


def build(names: list[str]) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(2, CHANNELS, 1)]
    width = CHANNELS
    for name in names:
        layer, width = _pieces(width)[name]
        layers.append(layer)
    return vivid(nn.Sequential(*layers, *head(width)))


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=6),
    share=st.sampled_from([0.1, 0.3, 0.5, 0.8]),
    seed=st.integers(0, 1000),
)
def test_results_stay(names: list[str], share: float, seed: int) -> None:
    torch.manual_seed(seed)
    net = build(names)
    x: Tensor = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    exact(net, some(net, share), x, torch.randn(1, 2, 6, 7, dtype=torch.float64))
