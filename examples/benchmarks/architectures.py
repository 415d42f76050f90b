"""Nets beside those of `bayesprune.nets`, each with something of its own in the way of removing a channel."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.nets import BasicBlock


def resnet18_imagenet(classes: int = 1000, width: int = 64) -> nn.Sequential:
    """ResNet-18 for 224×224 images: 7×7 stem and max-pooling (He et al., 2016, arXiv:1512.03385, table 1)."""
    stem = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    stages: list[nn.Module] = []
    channels = width
    for s in range(4):
        wide = width * 2**s
        stages += [BasicBlock(channels, wide, 1 if s == 0 else 2), BasicBlock(wide, wide)]
        channels = wide
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    return nn.Sequential(*stem, nn.MaxPool2d(3, stride=2, padding=1), *stages, *head)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection, and the input added (Sandler et al., 2018, arXiv:1801.04381)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.layers = nn.Sequential(
            *(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """The input is added where the shape stays."""
        return x + self.layers(x) if self.adds else self.layers(x)


class ResNeXtBlock(nn.Module):
    """A bottleneck around a grouped convolution (Xie et al., 2017, arXiv:1611.05431, figure 3c)."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        wide = outputs // 2
        self.conv1, self.bn1 = nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.conv3, self.bn3 = nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The residual added to the shortcut, then ReLU, all by functions."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def mobile_resnext(classes: int = 10, width: int = 32, groups: int = 8) -> nn.Sequential:
    """Inverted residuals, then ResNeXt blocks, for 32×32 images: depthwise and grouped convolutions, residual sums."""
    stem = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()
    mobile = [InvertedResidual(width, width, 1, 4), InvertedResidual(width, 2 * width, 2, 4)]
    mobile += [InvertedResidual(2 * width, 2 * width, 1, 4)]
    grouped = [ResNeXtBlock(2 * width, 4 * width, 2, groups), ResNeXtBlock(4 * width, 4 * width, 1, groups)]
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes)
    return nn.Sequential(*stem, *mobile, *grouped, *head)


class DenseLayer(nn.Module):
    """Norm, ReLU, convolution, twice, the result appended to the input (Huang et al., 2017, arXiv:1608.06993)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, inputs + growth, H, W)``."""
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


def densenet(classes: int = 10, growth: int = 12, layers: tuple[int, ...] = (4, 4, 4)) -> nn.Sequential:
    """DenseNet-BC for 32×32 images, of few layers (Huang et al., 2017, arXiv:1608.06993, section 3)."""
    channels = 2 * growth
    net: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Conv2d(3, channels, 3, padding=1, bias=False))
    for block, count in enumerate(layers, start=1):
        for i in range(count):
            net[f"dense{block}_{i + 1}"] = DenseLayer(channels, growth)
            channels += growth
        if block < len(layers):
            net[f"norm{block}"], net[f"relu{block}"] = nn.BatchNorm2d(channels), nn.ReLU()
            net[f"narrow{block}"] = nn.Conv2d(channels, channels // 2, 1, bias=False)
            net[f"pool{block}"] = nn.AvgPool2d(2)
            channels //= 2
    net["norm"], net["relu"] = nn.BatchNorm2d(channels), nn.ReLU()
    net["pool"], net["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    net["fc"] = nn.Linear(channels, classes)
    return nn.Sequential(net)


class OwnAttention(nn.Module):
    """Self-attention as vision transformers write it: one product for queries, keys and values, then a reshape."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Takes and gives ``(N, tokens, dim)``."""
        n, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))


class OwnBlock(nn.Module):
    """A pre-norm block with attention of its own and the MLP in an ``nn.Sequential``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), OwnAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Takes and gives ``(N, tokens, dim)``."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class OwnViT(nn.Module):
    """A vision transformer of `OwnBlock`, averaged over its tokens."""

    def __init__(self, image: int, patch: int, dim: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, stride=patch)
        self.positions = nn.Parameter(torch.empty(1, (image // patch) ** 2, dim).normal_(std=0.02))
        self.blocks = nn.Sequential(*(OwnBlock(dim, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, 3, image, image)``."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def encoder(dim: int = 256, heads: int = 8, depth: int = 4, *, norm_first: bool = True) -> nn.TransformerEncoder:
    """torch's own transformer encoder, batch first, with a last norm where the layers' norms come first."""
    layer = nn.TransformerEncoderLayer(
        dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
    )
    norm = nn.LayerNorm(dim) if norm_first else None
    return nn.TransformerEncoder(layer, depth, norm, enable_nested_tensor=False)
