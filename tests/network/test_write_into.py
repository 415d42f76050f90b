"""A net takes over what was fitted whatever it holds: tied weights, buffers that are not saved, buffers of its own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp


class Positions(nn.Module):
    """With a buffer that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)
        self.register_buffer("position", torch.arange(8.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + 0.01 * self.position)


class Tied(nn.Module):
    """A language model's embedding, used on the way out too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(3, 8), nn.Linear(8, 3, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x.long().clamp(0, 2)).mean(1))


class Counting(nn.Module):
    """A batch norm's running moments, and a count that moves with each training pass and is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.add_(1)
        return self.fc(self.norm(x)) + self.seen * 0


class Half(nn.Module):
    """One part in another precision, and one frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fc = nn.Linear(8, 8).double().requires_grad_(False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.first(x.double()).float())


NETS: dict[str, Callable[[], nn.Module]] = {c.__name__: c for c in (Positions, Tied, Counting, Half)}
RULES = {"dense": {}, "a posterior": {"*embed.weight": bp.SparseVD(), "*fc.weight": bp.SparseVD()}}


def trained(make: Callable[[], nn.Module], rules: str) -> tuple[bp.BayesianNet, Tensor]:
    torch.manual_seed(0)
    net, x, y = make(), torch.randn(40, 8), torch.randint(0, 3, (40,))
    names = [name for name, _ in net.named_parameters()]
    chosen = {glob: m for glob, m in RULES[rules].items() if any(n.endswith(glob[1:]) for n in names)}
    bnet = bp.BayesianNet(net, chosen)
    bp.fit(bp.classify(bnet, 40), bnet.guide, [(x, y)], epochs=3, lr=1e-2, seed=0, progress=False)
    return bnet, x


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("make", NETS.values(), ids=list(NETS))
def test_a_fresh_net_gives_what_the_means_give(make: Callable[[], nn.Module], rules: str) -> None:
    bnet, x = trained(make, rules)
    right = bnet.eval().run(bnet.means(), x)
    for net in (make(), bnet.net):  # a fresh one, and the one that it was fitted from
        assert not torch.allclose(net.eval()(x), right)
        bnet.write_into(net)
        torch.testing.assert_close(net(x), right)
        found = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        assert all(torch.equal(found[name], value) for name, value in bnet.means().items())


def test_ties_stay_ties_and_gradients_flow() -> None:
    bnet, x = trained(Tied, "dense")
    net = Tied()
    bnet.write_into(net)
    assert net.head.weight is net.embed.weight and net.head.weight.requires_grad
    net(x).sum().backward()
    assert bool(net.embed.weight.grad.any())


@pytest.mark.parametrize(
    ("other", "says"),
    [(nn.Linear(8, 3), "fc.weight"), (nn.Sequential(nn.Linear(8, 3)), "0.bias"), (Counting(), "position")],
    ids=["no such names", "others", "a buffer less"],
)
def test_another_net_is_refused_and_left_alone(other: nn.Module, says: str) -> None:
    bnet, _ = trained(Positions, "dense")
    before = [x.clone() for x in (*other.parameters(), *other.buffers())]
    with pytest.raises(ValueError, match=f"another way.*{says}"):
        bnet.write_into(other)
    assert all(torch.equal(a, b) for a, b in zip(before, (*other.parameters(), *other.buffers()), strict=True))
