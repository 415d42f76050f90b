"""Nets that were refused, or kept what could go, once: heads called several times, splits, dropped results, groups."""

import torch
import torch.nn.functional as F
from architectures import ResNeXtBlock
from torch import Tensor, nn


def resnext(classes: int = 10, width: int = 64, groups: int = 8) -> nn.Sequential:
    """Stages of bottlenecks around grouped convolutions (Xie et al., 2017, arXiv:1611.05431)."""
    stem = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    sides = ((width, 2 * width, 1), (2 * width, 2 * width, 1), (2 * width, 4 * width, 2), (4 * width, 4 * width, 1))
    blocks = (ResNeXtBlock(*side, groups) for side in sides)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))


class RegNetBlock(nn.Module):
    """A bottleneck of groups with squeeze and excitation (Radosavovic et al., 2020, arXiv:2003.13678, figure 4)."""

    def __init__(self, inputs: int, outputs: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, groups=outputs // group_width, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.squeeze, self.excite = nn.Conv2d(outputs, inputs // 4, 1), nn.Conv2d(inputs // 4, outputs, 1)
        self.conv3, self.bn3 = nn.Conv2d(outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, outputs, H / stride, W / stride)``."""
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        y = y * self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def regnet(classes: int = 10, width: int = 48, group_width: int = 16) -> nn.Sequential:
    """Stages for 32×32 images, in groups of 16 as RegNetY-400MF's."""
    stem = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
    sides = ((32, width, 1), (width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1))
    blocks = (RegNetBlock(*side, group_width) for side in sides)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes))


class Pyramid(nn.Module):
    """RetinaNet's heads, each called once a level (Lin et al., 2017, arXiv:1708.02002, figure 3)."""

    def __init__(self, width: int = 64, anchors: int = 9, classes: int = 20) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU())
        self.classes, self.boxes = self.tower(width, anchors * classes), self.tower(width, anchors * 4)

    @staticmethod
    def tower(width: int, outputs: int) -> nn.Sequential:
        """Four convolutions and the one that tells."""
        layers = [layer for _ in range(4) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())]
        return nn.Sequential(*layers, nn.Conv2d(width, outputs, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Scores and boxes of three levels."""
        levels = [self.stem(x)]
        levels += [F.max_pool2d(levels[0], 2), F.max_pool2d(levels[0], 4)]
        return [head(level) for level in levels for head in (self.classes, self.boxes)]


class C2f(nn.Module):
    """YOLOv8's block: a convolution's halves, one of which goes through more of them."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.c = width
        self.cv1, self.cv2 = nn.Conv2d(inputs, 2 * width, 1), nn.Conv2d((2 + depth) * width, 2 * width, 1)
        self.m = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, 2 * width, H, W)``."""
        y = list(F.silu(self.cv1(x)).split((self.c, self.c), 1))
        for layer in self.m:
            y.append(F.silu(layer(y[-1])))
        return F.silu(self.cv2(torch.cat(y, 1)))


def yolo(classes: int = 10, width: int = 32) -> nn.Sequential:
    """Two blocks of halves behind a strided stem."""
    stem = nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.SiLU()
    blocks = C2f(width, width, 2), nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.SiLU(), C2f(2 * width, 2 * width, 2)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))


class WaveNet(nn.Module):
    """Gated dilated convolutions with skips; the last residual is dropped (van den Oord et al., 2016, 1609.03499)."""

    def __init__(self, width: int = 32, skip: int = 64, depth: int = 6, classes: int = 64) -> None:
        super().__init__()
        self.embed = nn.Conv1d(1, width, 1)
        gates = (nn.Conv1d(width, 2 * width, 3, padding=2**i, dilation=2**i) for i in range(depth))
        self.gates = nn.ModuleList(gates)
        self.residuals = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(depth))
        self.skips = nn.ModuleList(nn.Conv1d(width, skip, 1) for _ in range(depth))
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(skip, skip, 1), nn.ReLU(), nn.Conv1d(skip, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 1, T)`` to ``(N, classes, T)``."""
        x, total = self.embed(x), None
        for gate, residual, skip in zip(self.gates, self.residuals, self.skips, strict=True):
            a, b = gate(x).chunk(2, 1)
            z = a.tanh() * b.sigmoid()
            total = skip(z) if total is None else total + skip(z)
            x = x + residual(z)
        return self.out(total)
