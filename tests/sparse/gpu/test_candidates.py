"""What a plan on a GPU offers: read off a mask that says it lies there."""

import torch
from torch import Tensor, nn

from bayesprune.sparse import BSR, CSR, SemiStructured
from bayesprune.sparse.planning.candidates import formats_of


class Elsewhere(Tensor):
    """A tensor of the CPU that says it is on a GPU."""

    is_cuda = True  # type: ignore[assignment]


def blocks(h: int, w: int, out: int = 256, into: int = 128) -> Tensor:
    grid = torch.rand(-(-out // h), -(-into // w)) < 0.2
    grid[0] = grid[:, 0] = False
    grid[1, 1] = True
    return grid.repeat_interleave(h, 0).repeat_interleave(w, 1)[:out, :into]


def offered(mask: Tensor, layer: nn.Module | None = None) -> list[object]:
    return formats_of(layer or nn.Linear(128, 256), mask.as_subclass(Elsewhere))


def test_blocks_are_as_high_as_the_kernels_want_them() -> None:
    assert offered(blocks(128, 16)) == [BSR(128, 16), BSR(16, 16), BSR(128, 1)]
    assert offered(blocks(64, 1)) == [BSR(64, 1)]
    assert offered(blocks(4, 16)) == [CSR()]
    assert formats_of(nn.Linear(128, 256), blocks(4, 16)) == [BSR(4, 16), BSR(4, 4), BSR(4, 1)]
    assert all(form.h <= 64 for form in formats_of(nn.Linear(128, 256), blocks(128, 16)) if isinstance(form, BSR))


def test_two_of_four_is_a_choice() -> None:
    mask = torch.zeros(256, 32, 4).scatter(2, torch.rand(256, 32, 4).argsort(2)[..., :2], 1).reshape(256, 128) > 0
    assert offered(mask) == [CSR(), SemiStructured()]
    mask[0, :3] = True
    assert offered(mask) == [CSR()]
    halves = torch.arange(8).expand(16, 8) % 4 < 2
    assert offered(halves, nn.Linear(8, 16)) == [BSR(16, 2), BSR(16, 1), SemiStructured()]


def test_convolutions_are_offered_blocks_within_their_channels() -> None:
    mask = torch.zeros(64, 3, 3, 32, dtype=torch.bool)
    mask[:32, 1, 1, :16] = True
    assert offered(mask.reshape(64, -1), nn.Conv2d(32, 64, 3)) == [BSR(32, 16), BSR(16, 16), BSR(32, 1)]
