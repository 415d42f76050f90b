"""Parameters that share memory: ties are followed, views of one tensor are right, overlaps refused."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

import bayesprune as bp
from bayesprune.sparse import CSR


def two(make):
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    make(net[0], net[2])
    return net


def transposed(a, b):
    b.weight = nn.Parameter(a.weight.detach().T)


def by_data(a, b):
    b.weight.data = a.weight.data


def partly(a, b):
    flat = torch.randn(100)
    a.weight, b.weight = nn.Parameter(flat[:64].view(8, 8)), nn.Parameter(flat[36:].view(8, 8))


def in_a_buffer(a, b):
    b.register_buffer("seen", a.weight.detach()[:2])


def other_bits(a, b):
    b.register_buffer("bits", a.weight.detach().view(torch.int32))


def expanded(a, b):
    b.bias = nn.Parameter(torch.zeros(1).expand(8))


SHARED = [transposed, by_data, partly, in_a_buffer, other_bits, expanded]


@pytest.mark.parametrize("how", SHARED, ids=lambda how: how.__name__)
@pytest.mark.parametrize("door", ["BayesianNet", "export", "compact", "plan"])
def test_what_overlaps_is_refused_at_the_door(how, door):
    net, x = two(how), torch.randn(4, 8)
    masks = {"2.weight": torch.eye(8).bool()}
    doors = {
        "BayesianNet": lambda: bp.BayesianNet(net, {"*.weight": bp.SparseVD()}),
        "export": lambda: bp.export(net, {}, masks, example=x),
        "compact": lambda: bp.compact(net, {}, masks, example=x),
        "plan": lambda: bp.plan(net, masks, example=x),
    }
    says = (
        "'2.bias' is expanded: several"
        if how is expanded
        else "'0.weight' and '2.[a-z]+' are two tensors over the same"
    )
    with pytest.raises(ValueError, match=says):
        doors[door]()


def tied(a, b):
    b.weight = a.weight


def views_of_a_flat_one(a, b):
    nn.utils.vector_to_parameters(torch.randn(144), [*a.parameters(), *b.parameters()])


def columns_of_one(a, b):
    wide = torch.randn(8, 16)
    a.weight, b.weight = nn.Parameter(wide[:, :8]), nn.Parameter(wide[:, 8:])


def interleaved(a, b):
    wide = torch.randn(8, 8, 2)
    a.weight, b.weight = nn.Parameter(wide[..., 0]), nn.Parameter(wide[..., 1])


def buffers_of_one(a, b):
    mask = torch.ones(8, 8)
    a.register_buffer("mask", mask[:4])
    b.register_buffer("mask", mask[:6])


def one_row_expanded(a, b):
    b.bias = nn.Parameter(torch.randn(8)[None].expand(1, 8)[0])


RIGHT = [tied, views_of_a_flat_one, columns_of_one, interleaved, buffers_of_one, one_row_expanded]


@pytest.mark.parametrize("how", RIGHT, ids=lambda how: how.__name__)
@pytest.mark.filterwarnings("ignore:.*slower than dense", "ignore:formats")
def test_what_does_not_overlap_is_right(how, tmp_path):
    net, x, y = two(how).eval(), torch.randn(16, 8), torch.randint(0, 8, (16,))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    bnet = bp.BayesianNet(net, {"*.weight": bp.Gaussian()})
    bp.fit(bp.classify(bnet, 16), bnet.guide, [(x, y)], epochs=2, seed=0, progress=False)
    masks, means = bp.masks(bnet, keep=0.5), bnet.means()
    sparse = bp.export(net, means, masks, example=x, formats={"*": CSR()})
    bp.save(sparse, tmp_path / "model")
    values = {**bnet.state().values, **{name: means[name] * mask for name, mask in masks.items()}}
    expected = functional_call(net, values, (x,))
    for found in (sparse, bp.load(tmp_path / "model", net=net), bp.compact(net, means, masks, example=x).net):
        torch.testing.assert_close(found(x), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
