"""What is kept with a reason, and what is refused; the caller's net stays whole either way."""

import copy

import pytest
import torch
from support.exactly import exact, shape, vivid, without
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from bayesprune.sparse.compact import compact

X = torch.randn(3, 4, dtype=torch.float64)


def mlp(between: nn.Module | None = None) -> nn.Sequential:
    return vivid(nn.Sequential(nn.Linear(4, 6), between or nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)))


DEAD = {"0__weight": [1, 2]}


@pytest.mark.parametrize(
    "between, reason",
    [
        (nn.LayerNorm(6), "LayerNorm"),
        (nn.Softmax(-1), "softmax"),
        (nn.Sequential(nn.Unflatten(1, (6, 1)), nn.GroupNorm(2, 6), nn.Flatten()), "GroupNorm"),
        (nn.Sequential(nn.Unflatten(1, (1, 6)), nn.LSTM(6, 6), nn.Identity()), "recurrent"),
    ],
    ids=["LayerNorm", "softmax", "GroupNorm", "LSTM"],
)
def test_statistics_over_channels_keep_them(between: nn.Module, reason: str) -> None:
    if reason == "recurrent":

        class First(nn.Module):
            def forward(self, x: tuple[Tensor, object]) -> Tensor:
                return x[0].flatten(1)

        between[2] = First()
    net = mlp(between)
    small = exact(net, without(net, **DEAD), X)
    assert shape(small, "0.weight") == (6, 4) and reason in small.reasons["0.weight"]


def test_the_nets_output_stays() -> None:
    net = mlp()
    small = exact(net, without(net, **{"4__weight": [0]}), X)
    assert small.reasons == {"4.weight": "1 empty slices of axis 0 stay: it is the net's output"}
    assert set(small.masks) == {"4.weight"}


def test_shared_weights_stay() -> None:
    net = mlp()
    net[2].weight = nn.Parameter(torch.randn(6, 6).double())
    net.append(nn.Linear(2, 2).double())
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2)).double()
    tied[2].weight = tied[0].weight
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[1] = False
    small = exact(tied, {"0.weight": mask, "2.weight": mask}, X)
    assert small.changes == {} and small.net[0].weight is small.net[2].weight


def test_a_layer_called_twice_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.b(self.a(x)).relu()).relu())

    net = vivid(Twice())
    small = exact(net, without(net, a__weight=[0], b__weight=[1]), X)
    assert shape(small, "b.weight") == (4, 4)


@pytest.mark.parametrize("kind", ["hook", "weight_norm", "forward"])
def test_what_is_watched_or_computed_stays(kind: str) -> None:
    net = mlp()
    if kind == "hook":
        net[0].register_forward_hook(lambda *_: None)
    elif kind == "weight_norm":
        weight_norm(net[2])
        assert parametrize.is_parametrized(net[2])
    else:
        net[2].forward = net[2].forward
    masks = without(net, **DEAD)
    small = exact(net, masks, X)
    assert shape(small, "0.weight") == (6, 4) and small.reasons["0.weight"]


def test_skip_leaves_a_module_as_it_is() -> None:
    net = mlp()
    masks = without(net, **DEAD, **{"2__weight": [0]})
    small = exact(net, masks, X, skip=("0",))
    assert shape(small, "0.weight") == (6, 4) and "skip" in small.reasons["0.weight"]
    assert shape(small, "2.weight")[0] == 5
    with pytest.raises(ValueError, match=r"skip names 'fc\*'"):
        compact(net, {}, masks, example=X, skip=["fc*"])


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(-1).values


class Unknown(nn.Module):
    """An operator of which compact knows nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, x.flip(-1)).sum(-1, keepdim=True) + x


class Turns(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Written(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, 2, 3).flip(1).reshape(-1, 6)


def refused(net: nn.Module, match: str) -> None:
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=match):
        compact(net, {}, without(net, **DEAD), example=X)
    assert all(torch.equal(before[name], x) for name, x in net.state_dict().items())


@pytest.mark.parametrize("kind, reason", [(Sorted, "sort in 1 is over the channels"), (Unknown, "is not known")])
def test_the_channels_that_meet_an_operator_across_them_stay(kind: type[nn.Module], reason: str) -> None:
    net = mlp(kind())
    small = exact(net, without(net, **DEAD, **{"2__weight": [1]}), X)  # and what it does not meet goes
    assert shape(small, "0.weight")[0] == 6 and reason in small.reasons["0.weight"]
    assert shape(small, "2.weight")[0] == 5
    small = exact(net, without(net, **DEAD), X, skip=("1",))
    assert shape(small, "0.weight")[0] == 6 and "skip names 1" in small.reasons["0.weight"]


def test_control_flow_by_data_is_refused() -> None:
    refused(mlp(Turns()), r"cannot follow '1' \(Turns\)")


def test_numbers_of_channels_that_are_written_in_keep_them() -> None:
    net = mlp(Written())
    small = exact(net, without(net, **{"0__weight": [1, 2, 4, 5]}), X)
    assert shape(small, "0.weight")[0] == 6


@pytest.mark.parametrize(
    "masks, example, match",
    [
        ({"7.weight": torch.ones(6, 4, dtype=torch.bool)}, X, "which the net lacks"),
        ({"0.weight": torch.ones(6, 4)}, X, "bool"),
        ({}, torch.randn(3, 5).double(), "cannot run on the example"),
        ({}, "x", "must be an input batch"),
    ],
)
def test_bad_input_is_refused(masks: dict[str, Tensor], example: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        compact(mlp(), {}, masks, example=example)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_nets_that_cannot_be_cut() -> None:
    with pytest.raises(ValueError, match=r"'0\.weight' is on the meta device"):
        compact(mlp().to("meta"), {}, {}, example=X.to("meta"))
    with pytest.raises(ValueError, match="TorchScript"):
        compact(torch.jit.trace(mlp(), X), {}, {}, example=X)


def test_without_masks_all_stays() -> None:
    net = mlp()
    small = exact(net, {}, X)
    assert not small.changes and not small.masks and not small.reasons
