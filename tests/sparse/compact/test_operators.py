"""Operators along positions leave the channels alone; those along the channels, or not known, keep them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.exactly import exact, shape, vivid, without
from torch import Tensor, nn

from bayesprune.sparse.compact import Compacted

X = torch.randn(2, 3, 6, 6, dtype=torch.float64)


class Net(nn.Module):
    """An operator between convolutions, behind a bias that is not 0."""

    def __init__(self, op: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.op = op
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.op(self.b(self.a(x).relu()).sigmoid())
        return self.c(y if y.dim() == 4 else y[:, :, None, None])


def halved(op: Callable[[Tensor], Tensor]) -> Compacted:
    """Half the channels that the operator meets are empty, on both sides of it."""
    net = vivid(Net(op))
    return exact(net, without(net, b__weight=[0, 2, 4, 6], c__weight=(1, [0, 2, 4, 6])), X)


def moved(y: Tensor) -> Tensor:
    grid = F.affine_grid(0.8 * torch.eye(2, 3, dtype=y.dtype).expand(len(y), 2, 3), y.shape, align_corners=False)
    return F.grid_sample(y, grid, align_corners=False)


def written(y: Tensor) -> Tensor:
    places = torch.tensor([0, 2, 4])
    return torch.zeros_like(y).index_add(-1, places, y[..., :3]).index_copy(2, places, y[:, :, 3:])


def unpooled(y: Tensor) -> Tensor:
    return F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2)


def scattered(y: Tensor) -> Tensor:
    return y.scatter_add(-1, y.argsort(-1), y).scatter(-1, torch.zeros_like(y, dtype=torch.int64), y)


ALONG_POSITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sort": lambda y: y.sort(-1).values,
    "sort, places": lambda y: y.gather(-1, y.argsort(-1)),
    "topk": lambda y: y.topk(2, -1).values,
    "max": lambda y: y.max(-1, keepdim=True).values + y.max(2, keepdim=True)[0],
    "max without axis kept": lambda y: y.max(-1)[0].max(-1)[0],
    "median": lambda y: y.median(-1, keepdim=True).values,
    "cumsum": lambda y: y.cumsum(-1),
    "std": lambda y: (y - y.mean((2, 3), keepdim=True)) / (1 + y.std((2, 3), keepdim=True)),
    "var": lambda y: y.var((2, 3)),
    "logsumexp": lambda y: y.logsumexp((2, 3)),
    "norm": lambda y: y / (1 + y.norm(dim=(2, 3), keepdim=True)),
    "normalize": lambda y: F.normalize(y, dim=-1),
    "prod": lambda y: y.prod(-1, keepdim=True),
    "grid_sample": moved,
    "unfold": lambda y: F.unfold(y, 3, padding=1).unflatten(1, (-1, 9)).mean(2).view_as(y),
    "unfold and fold": lambda y: F.fold(F.unfold(y, 2, stride=2), y.shape[2:], 2, stride=2),
    "windows": lambda y: y.unfold(-1, 3, 1).mean(-1),
    "rfft": lambda y: torch.fft.irfft(2 * torch.fft.rfft(y), n=y.shape[-1]),
    "fft2": lambda y: torch.fft.fft2(y).abs(),
    "complex": lambda y: torch.view_as_real(torch.polar(y, 3 * y)).sum(-1),
    "roll": lambda y: y.roll(1, -1) + y.roll((1, 2), (2, 3)),
    "flip": lambda y: y.flip(-1),
    "rot90": lambda y: y.rot90(1, (2, 3)),
    "tril": lambda y: y.tril() - y.triu(1),
    "places": lambda y: y[..., torch.tensor([0, 0, 3])],
    "places that are computed": lambda y: y.index_select(-1, torch.arange(6).flip(0)) + y[..., torch.arange(6) // 2],
    "gather": lambda y: y.gather(-1, torch.zeros(*y.shape[:-1], 2, dtype=torch.int64)),
    "scatter_add": scattered,
    "index_add": written,
    "index_put": lambda y: y.clone().index_put((torch.tensor([0]),), torch.tensor(0.5).double()),
    "max_unpool": unpooled,
    "bucketize": lambda y: y + torch.bucketize(y, torch.linspace(0, 1, 5).double()),
    "reflecting pad": lambda y: F.pad(y, (1, 1, 1, 1), mode="reflect"),
}


@pytest.mark.parametrize("name", ALONG_POSITIONS)
def test_operators_along_positions_leave_channels_alone(name: str) -> None:
    small = halved(ALONG_POSITIONS[name])
    assert shape(small, "b.weight") == (4, 8, 3, 3) and shape(small, "c.weight") == (2, 4, 1, 1)
    assert "b.weight" not in small.reasons


OVER_CHANNELS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "sort": (lambda y: y.sort(1).values, "sort in the net is over the channels"),
    "topk": (lambda y: y.topk(8, 1).values, "topk in the net is over the channels"),
    "max": (lambda y: y / y.max(1, keepdim=True).values, "max in the net is over the channels"),
    "cumsum": (lambda y: y.cumsum(1), "cumsum in the net is over the channels"),
    "std": (lambda y: y / y.std(1, keepdim=True), "std in the net is over the channels"),
    "normalize": (lambda y: F.normalize(y, dim=1), "is over the channels"),
    "all axes": (lambda y: y / y.norm(), "is over the channels"),
    "fft": (lambda y: torch.fft.fft(y, dim=1).abs(), "is over the channels"),
    "roll": (lambda y: y + y.roll(1, 1), "reads it where it is no constant"),
    "flip": (lambda y: y + y.flip(1), "reads it where it is no constant"),
    "places that are computed": (lambda y: y[:, y.sum((0, 2, 3)).argsort()], "is over the channels"),
    "gather": (lambda y: y.gather(1, y.argsort(1)), "is over the channels"),
    "not known": (lambda y: y + torch.cdist(y, y).mean((-2, -1), keepdim=True), "is not known"),
}


@pytest.mark.parametrize("name", OVER_CHANNELS)
def test_operators_over_channels_keep_them(name: str) -> None:
    op, reason = OVER_CHANNELS[name]
    small = halved(op)
    assert shape(small, "b.weight") == (8, 8, 3, 3) and shape(small, "c.weight") == (2, 8, 1, 1)
    assert reason in small.reasons["b.weight"]


@pytest.mark.parametrize("name", ["sort", "max", "logsumexp", "places", "places that are computed", "cumsum", "std"])
def test_empty_rows_alone_are_folded_where_the_operator_keeps_a_constant(name: str) -> None:
    net = vivid(Net(ALONG_POSITIONS[name]))
    small = exact(net, without(net, b__weight=[0, 2, 4, 6]), X)
    keeps = name not in ("logsumexp", "cumsum", "std")
    assert shape(small, "b.weight")[0] == (4 if keeps else 8)


def test_a_dead_channel_of_zeros_goes_through_sums() -> None:
    net = vivid(Net(lambda y: (y - 0.5).cumsum(-1)))
    nn.init.zeros_(net.b.bias[[0, 2]])
    with torch.no_grad():
        net.b.bias[[0, 2]] = 0
    small = exact(net, without(net, b__weight=[0, 2]), X)
    assert shape(small, "b.weight")[0] == 6
