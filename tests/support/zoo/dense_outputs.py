"""Nets with a result a pixel or a box: U-Net, pyramids, decoders, upsamplers, warps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.zoo.entry import Entry, floats
from support.zoo.images import conv

__all__ = ["DENSE_OUTPUTS"]


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = conv(3, 8), conv(8, 16), conv(16, 16)
        self.up, self.out1, self.out2 = nn.ConvTranspose2d(16, 16, 2, 2), conv(32, 8), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        d = self.out1(torch.cat([self.up(c), b], 1))
        return self.out2(torch.cat([F.interpolate(d, scale_factor=2.0, mode="bilinear"), a], 1))


class FPN(nn.Module):
    """A feature pyramid: several results."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = conv(3, 8), conv(8, 16, stride=2)
        self.l1, self.l2, self.out = nn.Conv2d(8, 8, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        a = self.c1(x)
        b = self.c2(a)
        top = self.l2(b)
        low = self.l1(a) + F.interpolate(top, size=a.shape[-2:], mode="nearest")
        return [self.out(low), self.out(top)]


class Detector(nn.Module):
    """RetinaNet: one head for all levels, results concatenated by anchor."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = FPN()
        self.tower, self.classes, self.boxes = conv(8, 8), nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = [self.tower(level) for level in self.pyramid(x)]
        scores = [self.classes(y).permute(0, 2, 3, 1).reshape(len(x), -1, 3) for y in levels]
        boxes = [self.boxes(y).permute(0, 2, 3, 1).reshape(len(x), -1, 4) for y in levels]
        return {"scores": torch.cat(scores, 1), "boxes": torch.cat(boxes, 1)}


class ASPP(nn.Module):
    """DeepLab: dilated branches and the mean of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.project = conv(3, 8), conv(20, 8, 1)
        self.branches = nn.ModuleList(nn.Conv2d(8, 4, 3, padding=d, dilation=d) for d in (1, 2, 3, 4))
        self.pool = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        mean = F.interpolate(self.pool(x.mean((2, 3), keepdim=True)), size=x.shape[2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), mean], 1))


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.Tanh(), nn.Conv2d(8, 12, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(F.pixel_shuffle(self.body(x), 2), -5, 5)


class STN(nn.Module):
    """A spatial transformer, as torch's tutorial writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.localization = nn.Sequential(nn.Conv2d(1, 8, 3), nn.MaxPool2d(2, 2), nn.ReLU(True))
        self.fc_loc = nn.Sequential(nn.Linear(8 * 9, 16), nn.ReLU(True), nn.Linear(16, 6))
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        theta = 0.3 * self.fc_loc(self.localization(x).view(-1, 8 * 9)).view(-1, 2, 3)
        x = F.grid_sample(x, F.affine_grid(theta, list(x.size()), align_corners=False), align_corners=False)
        x = F.relu(self.conv(x))
        return self.fc(x.view(x.size(0), -1))


class CRNN(nn.Module):
    """Text in images: columns of features, a recurrent layer, a class a column."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(conv(1, 8), nn.MaxPool2d(2), conv(8, 8), nn.MaxPool2d((4, 1)))
        self.rnn, self.fc = nn.LSTM(8, 6, bidirectional=True), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cnn(x).squeeze(2).permute(2, 0, 1)
        t, n, c = (z := self.rnn(y)[0]).shape
        return self.fc(z.view(t * n, c)).view(t, n, -1).transpose(0, 1)


class DQN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8)
        self.conv2, self.head = nn.Conv2d(8, 8, 2), nn.Linear(8 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.head(x.view(x.size(0), -1))


class Dueling(nn.Module):
    """A value and advantages, of one body."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 16), nn.ReLU())
        self.value, self.advantage = nn.Linear(16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        a = self.advantage(y)
        return self.value(y) + a - a.mean(1, keepdim=True)


class LeNet(nn.Module):
    """torch's tutorial: a size is written into the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3)
        self.fc1, self.fc2 = nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(self.conv2(F.pad(x, (1, 0, 1, 0)))).view(-1, 32)
        return F.log_softmax(self.fc2(F.dropout(F.relu(self.fc1(x)), training=self.training, p=0.0)), 1)


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *(nn.Conv2d(3, 8, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)),
            *(nn.Conv2d(8, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.2, inplace=True)),
            *(nn.Conv2d(16, 1, 2, bias=False), nn.Sigmoid()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x).view(-1)


def generator() -> nn.Module:
    return nn.Sequential(
        *(nn.ConvTranspose2d(6, 16, 4, bias=False), nn.BatchNorm2d(16), nn.ReLU(True)),
        *(nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False), nn.Tanh()),
    )


class ConvLSTM(nn.Module):
    """One convolution a step, for all gates."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.gates = 4, nn.Conv2d(3 + 4, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _, rows, columns = x.shape
        h = c = x.new_zeros(n, self.hidden, rows, columns)
        for step in range(t):
            i, f, o, g = self.gates(torch.cat([x[:, step], h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h


IMAGE, GREY = floats(3, 8, 8), floats(1, 8, 8)
DENSE_OUTPUTS: dict[str, Entry] = {
    "U-Net": Entry(UNet, IMAGE),
    "FPN": Entry(FPN, IMAGE),
    "RetinaNet": Entry(Detector, IMAGE),
    "DeepLab": Entry(ASPP, IMAGE),
    "pixel shuffle": Entry(SuperResolution, IMAGE),
    "STN": Entry(STN, GREY),
    "CRNN": Entry(CRNN, floats(1, 8, 12)),
    "DQN": Entry(DQN, floats(3, 7, 7)),
    "dueling DQN": Entry(Dueling, IMAGE),
    "LeNet of the tutorial": Entry(LeNet, GREY),
    "DCGAN's discriminator": Entry(Discriminator, IMAGE),
    "DCGAN's generator": Entry(generator, floats(6, 1, 1)),
    "ConvLSTM": Entry(ConvLSTM, floats(3, 3, 4, 4)),
}
