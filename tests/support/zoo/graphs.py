"""Nets over graphs, sets and pairs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.zoo.entry import Entry, floats

__all__ = ["GRAPHS"]

EDGES = torch.tensor([[0, 1, 2, 3, 4, 0, 2], [1, 2, 3, 4, 0, 2, 0]])


class GCN(nn.Module):
    """Messages added up at the nodes by ``index_add``, each by its degree."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def spread(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        degree = torch.zeros(len(x)).index_add(0, target, torch.ones(len(target))) + 1
        return (x + torch.zeros_like(x).index_add(0, target, x[source])) / degree[:, None]

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.spread(self.b(F.relu(self.spread(self.a(x), edges))), edges)


class GAT(nn.Module):
    """Attention over edges, a softmax a node."""

    def __init__(self, heads: int = 2, width: int = 4) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.fc, self.out = nn.Linear(6, heads * width, bias=False), nn.Linear(heads * width, 3)
        self.left, self.right = (nn.Parameter(torch.randn(heads, width)) for _ in range(2))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        h = self.fc(x).view(-1, self.heads, self.width)
        score = F.leaky_relu((h * self.left).sum(-1)[source] + (h * self.right).sum(-1)[target]).exp()
        total = torch.zeros(len(x), self.heads).index_add(0, target, score) + 1e-6
        messages = h[source] * (score / total[target])[..., None]
        return self.out(torch.zeros_like(h).index_add(0, target, messages).flatten(1))


class SAGE(nn.Module):
    """The largest neighbour, by ``scatter_reduce``."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.others, self.out = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        y = self.others(x)
        index = target[:, None].expand(-1, y.shape[1])
        most = torch.zeros_like(y).scatter_reduce(0, index, y[source], "amax", include_self=False)
        return self.out(F.relu(self.own(x) + most))


class EdgeConv(nn.Module):
    """A perceptron over pairs of neighbours, pooled over graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.out = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        m = self.mlp(torch.cat([x[target], x[source] - x[target]], -1))
        return self.out(x.new_zeros(len(x), 8).index_add(0, target, m).mean(0, keepdim=True))


class Adjacency(nn.Module):
    """A dense adjacency matrix times the nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8, bias=False), nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return torch.bmm(adjacency, self.b(torch.bmm(adjacency, self.a(x)).relu()))


class DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.phi, self.rho = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.rho(self.phi(x).sum(1))


class PointNet(nn.Module):
    """A transform of the points, shared layers, the largest over points."""

    def __init__(self) -> None:
        super().__init__()
        self.transform, self.a, self.b = nn.Linear(8, 9), nn.Conv1d(3, 8, 1), nn.Conv1d(3, 8, 1)
        self.bn, self.fc = nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        turn = self.transform(F.relu(self.a(x)).amax(2)).view(-1, 3, 3) + torch.eye(3)
        return self.fc(F.relu(self.bn(self.b(torch.bmm(turn, x)))).amax(2))


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        self.out = nn.Linear(4, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.out((self.body(a) - self.body(b)).abs())


class Relation(nn.Module):
    """Every pair of objects."""

    def __init__(self) -> None:
        super().__init__()
        self.g, self.f = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        k = x.shape[1]
        pairs = torch.cat([x[:, :, None].expand(-1, -1, k, -1), x[:, None].expand(-1, k, -1, -1)], -1)
        return self.f(self.g(pairs).relu().flatten(1, 2).sum(1))


class TwoTowers(nn.Module):
    """A recommender: tables of users and things, and wide features."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.things = nn.Embedding(7, 6), nn.Embedding(9, 6)
        self.deep, self.wide = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1)), nn.Linear(3, 1)

    def forward(self, user: Tensor, thing: Tensor, features: Tensor) -> Tensor:
        u, t = self.users(user), self.things(thing)
        return (self.deep(torch.cat([u, t], -1)) + self.wide(features) + (u * t).sum(-1, keepdim=True)).squeeze(-1)


def _nodes(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(5 * n, 6), torch.cat([EDGES + 5 * i for i in range(n)], 1)


def _rated(n: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randint(7, (n,)), torch.randint(9, (n,)), torch.randn(n, 3)


GRAPHS: dict[str, Entry] = {
    "GCN": Entry(GCN, _nodes),
    "GAT": Entry(GAT, _nodes),
    "GraphSAGE": Entry(SAGE, _nodes),
    "EdgeConv": Entry(EdgeConv, _nodes),
    "GCN, dense adjacency": Entry(Adjacency, lambda n: (torch.randn(n, 5, 6), torch.rand(n, 5, 5))),
    "DeepSets": Entry(DeepSets, floats(5, 4)),
    "PointNet": Entry(PointNet, floats(3, 10)),
    "siamese": Entry(Siamese, lambda n: (torch.randn(n, 6), torch.randn(n, 6))),
    "relation net": Entry(Relation, floats(3, 4)),
    "two towers": Entry(TwoTowers, _rated),
}
