"""A module under several names, a tensor in several places: the user's net stays as it was, all uses see one value."""

from collections.abc import Callable

import pytest
import torch
from support.layers import untouched
from support.passes import draw_and_run, train
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import bayesprune as bp
from bayesprune.network.substitute import everywhere


def twice() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer)


class Aliased(nn.Module):
    """A part of the net has a second name at its top."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.first, self.norm, self.last = self.body[0], self.body[1], nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x).relu()))


class Tied(nn.Module):
    """One tensor in two modules, of which one has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.c = self.b

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x).tanh()) + self.b(x)


class Recomputed(nn.Module):
    """What is checkpointed is a module of the net, or a function over it."""

    def __init__(self, module: bool, reentrant: bool) -> None:
        super().__init__()
        self.module, self.reentrant = module, reentrant
        self.a, self.b = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        function = self.a if self.module else lambda x: self.a(x)
        return self.b(checkpoint(function, self.b(x), use_reentrant=self.reentrant))


NETS: dict[str, Callable[[], nn.Module]] = {
    "twice in a row": twice,
    "two names": Aliased,
    "tied": Tied,
    "checkpointed module": lambda: Recomputed(True, False),
    "checkpointed module, reentrant": lambda: Recomputed(True, True),
    "checkpointed function": lambda: Recomputed(False, False),
    "each once": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)),
}
CERTAIN = bp.Gaussian(init_log_scale=-30.0, clip=(-40.0, 2.0))


@pytest.mark.parametrize("estimator", ["local", "weight", "flipout"])
@pytest.mark.parametrize("name", NETS)
def test_the_net_is_left_alone_and_its_own_results_and_gradients_come_out(name: str, estimator: str) -> None:
    net, x = NETS[name]().train(), torch.randn(6, 4)
    bnet = bp.BayesianNet(net, {"*weight": CERTAIN}, estimator=estimator)  # type: ignore[arg-type]
    with untouched(net):
        train(bnet, x)
        bnet.zero_grad()
        ours = draw_and_run(bnet, x)
        ours.square().sum().backward()
        with torch.no_grad():
            bnet.run(bnet.draw(), x)
    assert all(isinstance(p, nn.Parameter) for m in net.modules() for p in m._parameters.values() if p is not None)
    theirs = net(x)
    theirs.square().sum().backward()
    torch.testing.assert_close(ours, theirs)
    for weight, parameter in net.named_parameters():
        if weight in bnet.posteriors:
            torch.testing.assert_close(bnet.posteriors[weight].loc.grad, parameter.grad, rtol=1e-4, atol=1e-5)


def test_each_place_has_the_value_once() -> None:
    net = Tied()
    value = torch.zeros(4, 4)
    assert everywhere(net, {"a.weight": value}) == {"a.weight": value, "b.weight": value}
    assert list(everywhere(Aliased(), {"body.1.running_mean": torch.zeros(4)})) == ["body.1.running_mean"]
    assert list(everywhere(Aliased(), {"last.bias": torch.zeros(4)})) == ["last.bias"]
    assert list(everywhere(net, {"no such": value})) == ["no such"]


def test_a_buffer_under_two_names_moves_on_once_a_pass() -> None:
    net, x = Aliased().train(), torch.randn(6, 4)
    bnet = bp.BayesianNet(net, {"last.weight": CERTAIN})
    train(bnet, x, steps=3)
    for _ in range(3):
        net(x)
    assert bnet.means()["body.1.num_batches_tracked"] == net.norm.num_batches_tracked == 3
    torch.testing.assert_close(bnet.means()["body.1.running_mean"], net.norm.running_mean)
