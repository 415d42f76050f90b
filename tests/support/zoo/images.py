"""Backbones for images: residual, dense, mobile and attention blocks, as their papers and timm write them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.zoo.entry import Entry, floats

__all__ = ["IMAGES", "Block", "conv", "head"]


def conv(into: int, out: int, size: int = 3, stride: int = 1, groups: int = 1, act: type = nn.ReLU) -> nn.Sequential:
    """Convolution, batch normalisation, activation."""
    return nn.Sequential(
        nn.Conv2d(into, out, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(out), act()
    )


def head(width: int, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Block(nn.Module):
    """``x + body(x)``, through a shortcut of its own where one is given, and an activation after it."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, act: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut or nn.Identity(), act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


def bottleneck(width: int, groups: int = 1, squeeze: nn.Module | None = None) -> Block:
    body = nn.Sequential(conv(width, width // 2, 1), conv(width // 2, width // 2, 3, groups=groups))
    if squeeze is not None:
        body.append(squeeze)
    body.extend([nn.Conv2d(width // 2, width, 1, bias=False), nn.BatchNorm2d(width)])
    return Block(body, act=nn.ReLU())


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int, act: nn.Module | None = None) -> None:
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1), act or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class ECA(nn.Module):
    """Efficient channel attention: a 1d convolution over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
        return x * gate[:, :, None, None]


class CBAM(nn.Module):
    """Attention over channels, then over places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, width))
        self.spatial = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        gate = (self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))).sigmoid()
        x = x * gate[..., None, None]
        return x * self.spatial(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


class ConvNeXt(nn.Module):
    """Depthwise 7×7, LayerNorm and a perceptron with channels last, a scale a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.fc2(F.gelu(self.fc1(y)))).permute(0, 3, 1, 2)


class Dense(nn.Module):
    """DenseNet: what comes in, and beside it what the layer makes of it."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


class Ghost(nn.Module):
    """GhostNet: half of the channels by a cheap depthwise convolution of the other half."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.primary, self.cheap = conv(into, out // 2, 1), conv(out // 2, out // 2, 3, groups=out // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.primary(x)
        return torch.cat([y, self.cheap(y)], 1)


class Shuffle(nn.Module):
    """ShuffleNet v2: one half passes, the other is worked on, and channels change places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(conv(half, half, 1), conv(half, half, 3, groups=half, act=nn.Identity))

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        y = torch.cat([a, self.body(b)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Inception(nn.Module):
    """Branches side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = conv(width, 4, 1), nn.Sequential(conv(width, 4, 1), conv(4, 6, 3))
        self.c = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(width, 6, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x), self.c(x)], 1)


class CSP(nn.Module):
    """Cross-stage partial block as YOLO's C2f writes it: split into equal parts, each bottleneck's result kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c = width // 2
        self.cv1, self.cv2 = conv(width, width, 1, act=nn.SiLU), conv(2 * width, width, 1, act=nn.SiLU)
        self.m = nn.ModuleList(Block(conv(self.c, self.c, act=nn.SiLU)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).split((self.c, self.c), 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class SPP(nn.Module):
    """Spatial pyramid pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.out, self.pool = conv(width, 4, 1), conv(16, width, 1), nn.MaxPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.into(x)]
        for _ in range(3):
            y.append(self.pool(y[-1]))
        return self.out(torch.cat(y, 1))


class RepVGG(nn.Module):
    """3×3, 1×1 and the input itself, each normalised, summed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = conv(width, width, 3, act=nn.Identity), conv(width, width, 1, act=nn.Identity)
        self.c = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.a(x) + self.b(x) + self.c(x))


class Dynamic(nn.Module):
    """CondConv: each example's kernel is a mixture of experts'."""

    def __init__(self, width: int, experts: int = 3) -> None:
        super().__init__()
        self.route = nn.Linear(width, experts)
        self.weight = nn.Parameter(0.2 * torch.randn(experts, width, width, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernels = torch.einsum("ne,eoikl->noikl", self.route(x.mean((2, 3))).softmax(-1), self.weight)
        return F.conv2d(x.reshape(1, n * c, h, w), kernels.flatten(0, 1), padding=1, groups=n).view(n, c, h, w)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, gate, projection."""

    def __init__(self, width: int, act: type, gate: nn.Module | None = None) -> None:
        super().__init__()
        wide = 2 * width
        self.expand, self.dw, self.gate = conv(width, wide, 1, act=act), conv(wide, wide, 3, 1, wide, act), gate
        self.project = conv(wide, width, 1, act=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dw(self.expand(x))
        return x + self.project(y if self.gate is None else self.gate(y))


def _of(*middle: nn.Module, width: int = 8, out: int | None = None) -> nn.Sequential:
    return nn.Sequential(conv(3, width), *middle, head(out or width))


IMAGE = floats(3, 8, 8)
_MAKERS = {
    "ResNet basic": lambda: _of(Block(nn.Sequential(conv(8, 8), conv(8, 8, act=nn.Identity)), act=nn.ReLU())),
    "ResNet, strided": lambda: _of(
        Block(nn.Sequential(conv(8, 16, 3, 2), conv(16, 16, act=nn.Identity)), conv(8, 16, 1, 2, act=nn.Identity)),
        out=16,
    ),
    "ResNet bottleneck": lambda: _of(bottleneck(16), bottleneck(16), width=16),
    "ResNeXt": lambda: _of(bottleneck(16, groups=4), width=16),
    "RegNet": lambda: _of(bottleneck(16, groups=2, squeeze=Squeeze(8)), width=16),
    "SE-ResNet": lambda: _of(Block(nn.Sequential(conv(8, 8), Squeeze(8)), act=nn.ReLU())),
    "ECA-Net": lambda: _of(Block(nn.Sequential(conv(8, 8), ECA()))),
    "CBAM": lambda: _of(conv(8, 8), CBAM(8)),
    "pre-activation ResNet": lambda: _of(
        Block(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)))
    ),
    "ConvNeXt": lambda: _of(ConvNeXt(8), ConvNeXt(8)),
    "DenseNet": lambda: _of(Dense(8, 4), Dense(12, 4), conv(16, 8, 1), nn.AvgPool2d(2), Dense(8, 4), out=12),
    "GhostNet": lambda: _of(Block(nn.Sequential(Ghost(8, 16), Ghost(16, 8)))),
    "MobileNet v1": lambda: _of(conv(8, 8, groups=8), conv(8, 16, 1), conv(16, 16, groups=16), out=16),
    "MobileNet v2": lambda: _of(InvertedResidual(8, nn.ReLU6), InvertedResidual(8, nn.ReLU6)),
    "MobileNet v3": lambda: _of(InvertedResidual(8, nn.Hardswish, Squeeze(16))),
    "EfficientNet": lambda: _of(InvertedResidual(8, nn.SiLU, Squeeze(16, nn.SiLU()))),
    "ShuffleNet": lambda: _of(Shuffle(8), Shuffle(8)),
    "Inception": lambda: _of(Inception(8), Inception(16), out=16),
    "SqueezeNet": lambda: _of(conv(8, 4, 1), nn.MaxPool2d(2), Dense(4, 4), nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True)),
    "CSP": lambda: _of(CSP(8)),
    "SPP": lambda: _of(SPP(8)),
    "RepVGG": lambda: _of(RepVGG(8), RepVGG(8)),
    "CondConv": lambda: _of(Dynamic(8)),
    "VGG": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(True)),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 5)),
    ),
    "all-convolutional": lambda: nn.Sequential(
        conv(3, 8, 3, 2), conv(8, 8), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1)
    ),
}
IMAGES: dict[str, Entry] = {name: Entry(make, IMAGE) for name, make in _MAKERS.items()}
