"""Nets that take a view of a convolution's result, which packed convolutions give channels-last."""

import dataclasses
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.sparse import BSR, export, load, plan, save
from bayesprune.sparse.layers.conv import SparseConv2d


class Lenet(nn.Module):
    """``how`` the images become rows."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.drop, self.aux = nn.Dropout(0.2), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        return self.how(self, F.max_pool2d(self.one(x).relu(), 2))


def rows(net, x):
    x = F.max_pool2d(net.two(x).relu(), 2)
    return net.drop(x.view(x.size(0), -1))


def steps(net, x):  # as a CRNN's
    n, c, h, w = (x := net.two(x)).shape
    return x.view(n, c * h, w).permute(2, 0, 1)


def twice(net, x):  # after the first as well
    return net.two(x.view(x.shape[0], -1).view(x.shape)).view(x.shape[0], -1)


def through_a_dense_one(net, x):
    x = net.aux(net.two(x))
    return x.view(x.shape[0], -1)


def in_training_alone(net, x):
    y = net.two(x)
    aux = net.aux(y).view(len(x), -1).sum() if net.training else 0
    return y.mean((2, 3)) + aux


def reshaped(net, x):
    return net.two(x).reshape(x.shape[0], -1)


def pooled(net, x):
    x = F.adaptive_avg_pool2d(net.two(x), 1)
    return x.view(x.size(0), -1)


def flattened(net, x):
    return net.two(x).flatten(1)


def made(how, random_masks, form="two", **kwargs):
    torch.manual_seed(0)
    net, x = Lenet(how).eval(), torch.randn(4, 3, 8, 8)
    masks = random_masks(net, 0.3, names=["one.weight", "two.weight"] if form == "both" else ["two.weight"])
    formats = {"two": BSR(16, 1), **({"one": BSR(16, 1)} if form == "both" else {})}
    masks = {name: mask[:1].expand_as(mask).clone() for name, mask in masks.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        planned = plan(net, masks, example=x, formats=formats)
        return net, x, masks, planned, export(net, {}, masks, example=x, plan=planned, **kwargs)


def right(sparse, dense, x):
    with torch.no_grad():
        for given in (
            x,
            torch.randn(1, 3, 8, 8),
            torch.randn(7, 3, 8, 8),
            x.contiguous(memory_format=torch.channels_last),
        ):
            try:
                expected = dense(given)
            except RuntimeError:  # torch's own convolutions hand channels-last on
                continue
            torch.testing.assert_close(sparse(given), expected, rtol=1e-4, atol=1e-5)
    sparse.train()(x).sum().backward()
    sparse.eval()


@pytest.mark.parametrize("form", ["two", "both"])
@pytest.mark.parametrize("how", [rows, steps, twice, through_a_dense_one], ids=lambda how: how.__name__)
def test_results_are_made_contiguous_where_the_net_views_them(how, form, random_masks, masked_dense, tmp_path):
    net, x, masks, planned, sparse = made(how, random_masks, form)
    assert planned["two.weight"].contiguous and type(sparse.two) is SparseConv2d and sparse.two.contiguous
    assert "two.weight: its result is made contiguous, for the net takes a view" in str(planned)
    assert "contiguous=True" in repr(sparse.two)
    right(sparse, masked_dense(net, masks), x)
    save(sparse, tmp_path / "model")
    again = load(tmp_path / "model", net=net)
    assert again.two.contiguous
    assert torch.equal(again(x), sparse(x))


@pytest.mark.parametrize("how", [reshaped, pooled, flattened, in_training_alone], ids=lambda how: how.__name__)
def test_others_stay_channels_last(how, random_masks, masked_dense):
    net, x, masks, planned, sparse = made(how, random_masks)
    assert type(sparse.two) is SparseConv2d
    if how is in_training_alone:  # of the dense convolution after it
        assert planned["two.weight"].contiguous
    else:
        assert not planned["two.weight"].contiguous and "contiguous" not in str(planned)
        assert sparse.aux.weight.is_contiguous(memory_format=torch.channels_last)
    right(sparse, masked_dense(net, masks), x)


def test_a_plan_that_does_not_say_so_is_no_hindrance(random_masks, masked_dense):
    net, x, masks, planned, _ = made(rows, random_masks)
    older = dataclasses.replace(
        planned, choices={n: dataclasses.replace(c, contiguous=False) for n, c in planned.choices.items()}
    )
    sparse = export(net, {}, masks, example=x, plan=older)
    assert sparse.two.contiguous
    right(sparse, masked_dense(net, masks), x)
