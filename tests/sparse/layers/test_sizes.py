"""Sizes beside tensors: read, set from smaller tensors, and made small again from what a file says."""

import copy

import pytest
import torch
from torch import nn

from bayesprune.sparse.layers.sizes import full, refit, resize, shrunk, sizes

KEEP = torch.tensor([0, 2, 3, 5])
KINDS = {
    "linear": (lambda n: nn.Linear(n, n), {"weight": (0, 1), "bias": (0,)}, {}),
    "linear, outputs": (lambda n: nn.Linear(7, n, bias=False), {"weight": (0,)}, {}),
    "bilinear": (lambda n: nn.Bilinear(n, n, n), {"weight": (0, 1, 2), "bias": (0,)}, {}),
    "conv1d": (lambda n: nn.Conv1d(n, n, 3), {"weight": (0, 1), "bias": (0,)}, {}),
    "conv2d": (lambda n: nn.Conv2d(n, n, 3, padding=1), {"weight": (0, 1), "bias": (0,)}, {}),
    "conv3d": (lambda n: nn.Conv3d(n, n, 3), {"weight": (0, 1), "bias": (0,)}, {}),
    "depthwise": (lambda n: nn.Conv2d(n, n, 3, groups=n), {"weight": (0,), "bias": (0,)}, {"groups": 4}),
    "depthwise, twice": (lambda n: nn.Conv2d(n, 2 * n, 3, groups=n), {}, {"groups": 4}),
    "transposed": (lambda n: nn.ConvTranspose2d(n, n, 3), {"weight": (0, 1), "bias": (0,)}, {}),
    "batch norm": (
        lambda n: nn.BatchNorm2d(n),
        dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (0,)),
        {},
    ),
    "batch norm, plain": (
        lambda n: nn.BatchNorm1d(n, affine=False),
        dict.fromkeys(("running_mean", "running_var"), (0,)),
        {},
    ),
    "instance norm": (lambda n: nn.InstanceNorm2d(n, affine=True), {"weight": (0,), "bias": (0,)}, {}),
    "instance norm, plain": (lambda n: nn.InstanceNorm2d(n), {}, {"num_features": 4}),
    "group norm": (lambda n: nn.GroupNorm(n // 2, n), {"weight": (0,), "bias": (0,)}, {"num_groups": 2}),
    "prelu": (lambda n: nn.PReLU(n), {"weight": (0,)}, {}),
    "embedding": (lambda n: nn.Embedding(9, n), {"weight": (1,)}, {}),
}


def cut(module, axes, settings):
    tensors = {}
    for name, along in axes.items():
        x = getattr(module, name)
        for axis in along:
            x = x.index_select(axis, KEEP)
        tensors[name] = x
    if not axes and isinstance(module, nn.Conv2d):
        rows = torch.stack([2 * KEEP, 2 * KEEP + 1], 1).flatten()
        tensors = {"weight": module.weight[rows], "bias": module.bias[rows]}
    refit(module, tensors, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_a_smaller_module_is_as_its_class_makes_it(kind):
    make, axes, settings = KINDS[kind]
    module, whole, small = make(6), make(6), make(4)
    cut(module, axes, settings)
    assert repr(module) == repr(small)
    assert sizes(module) == sizes(small)
    assert {n: x.shape for n, x in module.state_dict().items()} == {n: x.shape for n, x in small.state_dict().items()}
    own = {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "full_sizes"}
    assert own == {k: v for k, v in vars(small).items() if not k.startswith("_")}
    assert {name: full(module, name) for name in sizes(module)} == sizes(whole)
    small.load_state_dict(module.state_dict())
    assert all(x.requires_grad for x in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_and_a_whole_one_shrinks_to_it_without_values(kind):
    make, axes, settings = KINDS[kind]
    module, again = make(6), make(6)
    cut(module, axes, settings)
    resize(again, shrunk(module)[""])
    assert repr(again) == repr(module) and sizes(again) == sizes(module)
    assert {n: x.shape for n, x in again.state_dict().items()} == {n: x.shape for n, x in module.state_dict().items()}
    assert shrunk(again) == shrunk(module)
    assert all(x.is_meta for n, x in again.state_dict().items() if n in axes)


def test_the_first_sizes_are_remembered_through_copies_and_further_cuts():
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    assert shrunk(net) == {}
    refit(net[0], {"weight": net[0].weight[:5], "bias": net[0].bias[:5]})
    net = copy.deepcopy(net)
    refit(net[0], {"weight": net[0].weight[:3, :4], "bias": net[0].bias[:3]})
    assert shrunk(net) == {"0": {"out_features": (6, 3), "in_features": (6, 4)}}
    refit(net[0], {"weight": net[0].weight.new_zeros(3, 6)})
    assert shrunk(net) == {"0": {"out_features": (6, 3)}}


def test_a_bias_may_come_and_own_tensors_of_other_classes_may_shrink():
    layer = nn.Linear(6, 6, bias=False)
    refit(layer, {"weight": layer.weight[:4], "bias": torch.ones(4)})
    assert shrunk(layer) == {"": {"out_features": (6, 4), "bias": (None, (4,))}}
    again = nn.Linear(6, 6, bias=False)
    resize(again, shrunk(layer)[""])
    assert again.bias.shape == (4,) and again.bias.requires_grad

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.num_heads = nn.Parameter(torch.zeros(1, 1, 6)), 3

    own, again = Own(), Own()
    refit(own, {"token": own.token[..., :4]}, num_heads=2)
    assert shrunk(own) == {"": {"num_heads": (3, 2), "token": ((1, 1, 6), (1, 1, 4))}}
    resize(again, shrunk(own)[""])
    assert again.num_heads == 2 and again.token.shape == (1, 1, 4) and again.token.is_meta


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (({"weigth": torch.ones(1)}, {}), "no tensor or integer weigth"),
        (({}, {"heads": 1}), "no tensor or integer heads"),
    ],
)
def test_refit_refuses_what_the_module_lacks(given, told):
    tensors, settings = given
    with pytest.raises(ValueError, match=told):
        refit(nn.Linear(2, 2), tensors, **settings)


WRONG = [
    ({"out_features": (5, 3)}, "out_features=6, and was 5"),
    ({"out_features": (6, 7)}, "cannot shrink from out_features=6 to 7"),
    ({"out_features": (6, 0)}, "cannot shrink"),
    ({"out_features": (6, -1)}, "cannot shrink"),
    ({"out_features": (6, 10**30)}, "cannot shrink"),
    ({"out_features": (6, None)}, "cannot shrink"),
    ({"out_features": (6, (3,))}, "cannot shrink"),
    ({"weight": ((6, 6), (3, 6))}, r"weight of shape \(3, 6\), which should be \(6, 6\)"),
    ({"bias": ((6,), (6, 1))}, "cannot shrink"),
    ({"bias": (None, (6,))}, r"bias=\(6,\), and was None"),
    ({"training": (True, 0)}, "no tensor or integer 'training'"),
    ({"forward": (6, 3)}, "no tensor or integer 'forward'"),
    ({"__class__": (6, 3)}, "no tensor or integer"),
    ({"hooks": (None, None)}, "no tensor or integer"),
]


@pytest.mark.parametrize(("changes", "told"), WRONG)
def test_resize_refuses_what_is_not_smaller_or_does_not_go_together(changes, told):
    with pytest.raises(ValueError, match=told):
        resize(nn.Linear(6, 6), changes)


def test_resize_keeps_groups_whole():
    with pytest.raises(ValueError, match="cannot have in_channels=3 in that many groups"):
        resize(nn.Conv2d(6, 6, 3, groups=2), {"in_channels": (6, 3)})
    with pytest.raises(ValueError, match=r"bias of shape \(4,\), which should be \(6,\)"):
        resize(nn.Conv2d(6, 6, 3, bias=False), {"bias": (None, (4,))})
