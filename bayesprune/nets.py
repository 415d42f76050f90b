"""Reference networks of the pruning papers: every function returns a fresh, untrained ``nn.Module``.

The LeNets, `mlp` and `vgg_like` are one ``nn.Sequential`` of named ``torch.nn`` layers, so a list of names and
layer types is enough to rebuild them. `resnet18` and `vit` need the small classes of this file. All of them
return logits and hold no dropout: the noise of a Bayesian method takes its place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Fully connected ReLU network ``flatten, fc1, relu1, fc2, ..., fcK``, with K = ``len(hidden) + 1``.

    Takes ``(N, ...)`` with ``inputs`` numbers a row, gives ``(N, outputs)``. With ``hidden=()`` it is linear.

    Raises:
        ValueError: a size is below 1.

    >>> net = mlp(6, (50,), 1)
    >>> [name for name, _ in net.named_children()]
    ['flatten', 'fc1', 'relu1', 'fc2']
    """
    sizes = [inputs, *hidden, outputs]
    _check_sizes(inputs=inputs, outputs=outputs, **{f"hidden[{i}]": size for i, size in enumerate(hidden)})
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        layers[f"fc{i}"] = nn.Linear(fan_in, fan_out)
        if i <= len(hidden):
            layers[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)


def lenet_300_100(inputs: int = 784, classes: int = 10) -> nn.Sequential:
    """LeNet-300-100 (LeCun et al., 1998, "Gradient-based learning applied to document recognition").

    Takes ``(N, ...)`` with ``inputs`` numbers a row (784 for MNIST, 64 for scikit-learn's digits), gives
    ``(N, classes)``. The 1998 network had sigmoids; the pruning literature (Han et al., 2015; Molchanov et al.,
    2017, arXiv:1701.05369, table 1) uses ReLU, as here.

    Raises:
        ValueError: a size is below 1.

    >>> sum(p.numel() for p in lenet_300_100().parameters())
    266610
    """
    return mlp(inputs, (300, 100), classes)


def lenet_5_caffe(classes: int = 10) -> nn.Sequential:
    """LeNet-5-Caffe, the 20-50-500 network of the pruning literature.

    Takes ``(N, 1, 28, 28)``, gives ``(N, classes)``. Sizes are those of Caffe's ``examples/mnist/lenet.prototxt``.
    Caffe has a ReLU after ``fc1`` alone; here one follows each convolution too, as in the code of the Sparse VD
    paper (Molchanov et al., 2017, arXiv:1701.05369, table 1), whose Lasagne layers rectify by default.

    Raises:
        ValueError: ``classes`` is below 1.

    >>> sum(p.numel() for p in lenet_5_caffe().parameters())
    431080
    """
    _check_sizes(classes=classes)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500),
            relu3=nn.ReLU(),
            fc2=nn.Linear(500, classes),
        )
    )


_VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg_like(classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """VGG-like network for 32×32 colour images, with batch normalisation.

    Takes ``(N, 3, 32, 32)``, gives ``(N, classes)``. Zagoruyko's ``vgg_bn_drop`` (torch.ch/blog/2015/07/30/cifar)
    without its dropout, as Sparse VD trains it (Molchanov et al., 2017, arXiv:1701.05369, section 5.3). Every layer
    has ``int(width * n)`` channels, where that paper's scale ``k`` is ``width``. Convolutions are ``conv{s}_{i}``.

    Raises:
        ValueError: ``classes`` is below 1, or ``width`` leaves a layer without a channel.

    >>> vgg_like(width=0.25).conv5_3
    Conv2d(128, 128, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """
    _check_sizes(classes=classes)
    if int(64 * width) < 1:
        raise ValueError(f"expected width >= 1/64, so that the first layer keeps a channel; got width={width}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for s, stage in enumerate(_VGG_STAGES, start=1):
        for i, full in enumerate(stage, start=1):
            wide = int(full * width)
            layers[f"conv{s}_{i}"] = nn.Conv2d(channels, wide, 3, padding=1)
            layers[f"bn{s}_{i}"] = nn.BatchNorm2d(wide, eps=1e-3)
            layers[f"relu{s}_{i}"] = nn.ReLU()
            channels = wide
        layers[f"pool{s}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(channels, channels)
    layers["bn_fc1"] = nn.BatchNorm1d(channels, eps=1e-3)
    layers["relu_fc1"] = nn.ReLU()
    layers["fc2"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al., 2016, arXiv:1512.03385, figure 5 left).

    Takes ``(N, inputs, H, W)``, gives ``(N, outputs, H / stride, W / stride)``. The shortcut is the identity where
    the shape stays, else a 1×1 convolution with batch normalisation (their option B).

    >>> BasicBlock(8, 16, stride=2)(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 16, 2, 2])
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs)))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The residual added to the shortcut, then ReLU."""
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet18(classes: int = 10, width: int = 64) -> nn.Sequential:
    """ResNet-18 for 32×32 colour images: 3×3 stem, no max-pooling.

    Takes ``(N, 3, 32, 32)``, gives ``(N, classes)``. The four stages of He et al., 2016 (arXiv:1512.03385, table 1)
    have ``width``, 2, 4 and 8 times ``width`` channels; the small stem is the usual one for CIFAR.

    Raises:
        ValueError: a size is below 1.

    >>> sum(p.numel() for p in resnet18().parameters())
    11173962
    """
    _check_sizes(classes=classes, width=width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, width, 3, padding=1, bias=False), bn1=nn.BatchNorm2d(width), relu1=nn.ReLU()
    )
    channels = width
    for s in range(4):
        wide = width * 2**s
        blocks = BasicBlock(channels, wide, stride=1 if s == 0 else 2), BasicBlock(wide, wide)
        layers[f"layer{s + 1}"] = nn.Sequential(*blocks)
        channels = wide
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)


class ViTBlock(nn.Module):
    """Pre-norm transformer block (Dosovitskiy et al., 2021, arXiv:2010.11929).

    Takes and gives ``(N, tokens, dim)``. The MLP's layers are called one by one, unlike those of
    ``nn.TransformerEncoderLayer``, which a fused kernel passes over in ``eval()``.

    >>> ViTBlock(dim=8, heads=2)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attention and MLP, each on the normalised tokens and added to them."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.fc2(self.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """Vision transformer with a class token and learnt positions; made by `vit`, which checks the sizes."""

    def __init__(self, image: int, patch: int, channels: int, dim: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.empty(1, (image // patch) ** 2 + 1, dim).normal_(std=0.02))
        self.blocks = nn.Sequential(*(ViTBlock(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, channels, image, image)``."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], dim=1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def vit(
    image: int = 32,
    patch: int = 4,
    channels: int = 3,
    dim: int = 192,
    depth: int = 6,
    heads: int = 3,
    classes: int = 10,
) -> ViT:
    """Vision transformer, pre-norm, with an MLP of ``4 * dim`` (Dosovitskiy et al., 2021, arXiv:2010.11929).

    Takes ``(N, channels, image, image)``, gives ``(N, classes)``. ``image`` and ``patch`` are sides in pixels. The
    width and heads of the default are ViT-Tiny's (Touvron et al., 2021, arXiv:2012.12877, table 1), at half the depth.

    Raises:
        ValueError: a size is below 1, ``patch`` does not divide ``image``, or ``heads`` does not divide ``dim``.

    >>> vit(dim=16, depth=1, heads=2)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    _check_sizes(image=image, patch=patch, channels=channels, dim=dim, depth=depth, heads=heads, classes=classes)
    if image % patch:
        raise ValueError(f"expected a patch that divides the image's side; got image={image}, patch={patch}")
    if dim % heads:
        raise ValueError(f"expected heads that divide dim; got dim={dim}, heads={heads}")
    return ViT(image, patch, channels, dim, depth, heads, classes)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"expected {name} >= 1, got {name}={size}")
