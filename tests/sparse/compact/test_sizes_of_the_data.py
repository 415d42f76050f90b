"""Sizes that depend on the data are refused with the module that makes them; sizes that do not are followed."""

import pytest
import torch
from support.exactly import exact, shape, vivid, without
from torch import Tensor, nn

from bayesprune.sparse.compact import compact

NODES = torch.randn(5, 4, dtype=torch.float64)
EDGES = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])


class Sums(nn.Module):
    """Each node's neighbours summed, into as many rows as told, as there are nodes, or as the edges name."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.mix = how, nn.Linear(6, 6)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        messages = self.mix(x).relu()[edges[0]]
        if self.how == "as the edges name":
            return torch.zeros(int(edges[1].max()) + 1, 6, dtype=x.dtype).index_add(0, edges[1], messages)
        if self.how == "index_add":
            return torch.zeros_like(x).index_add(0, edges[1], messages)
        if self.how == "scatter_add":
            into = torch.zeros(len(x), x.shape[1], dtype=x.dtype)
            return into.scatter_add(0, edges[1][:, None].expand(-1, x.shape[1]), messages)
        return x.new_zeros(len(x), 6).index_put((edges[1],), messages.mean(1, keepdim=True), accumulate=True)


class Graphs(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.conv, self.b = nn.Linear(4, 6), Sums(how), nn.Linear(6, 2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.b(self.conv(self.a(x).relu(), edges))


@pytest.mark.parametrize("how", ["index_add", "scatter_add"])
def test_sums_over_neighbours_leave_channels_alone(how: str) -> None:
    net = vivid(Graphs(how))
    masks = without(net, a__weight=[2, 3], conv__mix__weight=[2, 3], b__weight=(1, [2, 3]))  # zeros_like is of a's size
    small = exact(net, masks, (NODES, EDGES), (NODES[:3], EDGES[:, :2]))
    assert shape(small, "conv.mix.weight") == (4, 4) and shape(small, "b.weight") == (2, 4)


def test_what_is_written_over_channels_is_right() -> None:
    net = vivid(Graphs("index_put"))
    small = exact(net, without(net, a__weight=[0, 1], conv__mix__weight=[2, 3]), (NODES, EDGES))
    assert shape(small, "a.weight") == (4, 4)


def test_a_size_that_depends_on_the_data_is_refused_by_its_module() -> None:
    net = vivid(Graphs("as the edges name"))
    with pytest.raises(ValueError, match=r"compact cannot follow 'conv' \(Sums\)"):
        compact(net, {}, without(net, a__weight=[0, 1]), example=(NODES, EDGES))
