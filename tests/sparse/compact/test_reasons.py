"""Every empty slice that stays has its reason."""

import torch
from support.exactly import exact, vivid, without
from torch import Tensor, nn

X = torch.randn(2, 4, 6, 6, dtype=torch.float64)


class Several(nn.Module):
    """A layer that is not called, a convolution in groups, and a table that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.grouped, self.norm = nn.Linear(4, 4), nn.Conv2d(4, 8, 3, groups=2), nn.GroupNorm(2, 8)
        self.table, self.out = nn.Parameter(torch.randn(4, 4)), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.grouped(x)) + self.table)


def test_each_kind_of_slice_that_stays_is_told() -> None:
    net = vivid(Several())
    masks = without(net, idle__weight=[0], out__weight=[1], table=[2])
    masks["grouped.weight"] = torch.ones(8, 2, 3, 3, dtype=torch.bool)
    masks["grouped.weight"][:4, 1] = False
    masks["grouped.weight"][5] = False
    small = exact(net, masks, X)
    assert not small.changes
    assert small.reasons["idle.weight"] == "1 empty slices of axis 0 stay: it is not used on the example"
    assert small.reasons["out.weight"] == "1 empty slices of axis 0 stay: it is the net's output"
    assert small.reasons["table"] == "1 empty slices of axis 0 stay: table enters entry by entry"
    rows, columns = small.reasons["grouped.weight"].split("; ")
    assert rows == "1 empty slices of axis 0 stay: GroupNorm's statistics are over channels"
    assert columns == "1 empty slices of axis 1 stay: it is the net's input"


def test_what_goes_needs_no_reason() -> None:
    net = vivid(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)))
    small = exact(net, without(net, **{"0__weight": [0, 3], "2__weight": (1, [1])}), X)
    assert not small.reasons


def test_a_reason_that_held_in_an_earlier_round_alone_is_not_told() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.c((h + self.b(h.relu())).relu())

    net = vivid(Skips())
    small = exact(net, without(net, a__weight=[0, 1], b__weight=[1]), torch.randn(3, 4, dtype=torch.float64))
    assert small.reasons == {"a.weight": "1 empty slices of axis 0 stay: c reads it where it is no constant"}
