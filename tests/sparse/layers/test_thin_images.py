"""Convolutions of one channel or of images one pixel wide, whose strides are those of two layouts at once."""

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.sparse import BSR, CSR, export
from bayesprune.sparse.buffers.geometry import Geometry, plainly_strided
from bayesprune.sparse.layers.conv import SparseConv2d, channels_last

GEOMETRIES = [
    Geometry((2, 2), (1, 2), (1, 1)),
    Geometry((3, 3), (1, 1), (1, 1)),
    Geometry((3, 1), (1, 1), (1, 0)),
    Geometry((1, 1), (2, 2), (0, 0)),
    Geometry((1, 1), (2, 2), (2, 2), (2, 2)),
]
SIZES = [(17, 1), (1, 17), (1, 1), (6, 5)]


def by_unfolding(x, weight, geometry):
    """The convolution without a convolution of torch's."""
    columns = F.unfold(x, geometry.kernel, geometry.dilation, geometry.padding, geometry.stride)
    y = weight.reshape(weight.shape[0], -1) @ columns
    return y.view(x.shape[0], weight.shape[0], *geometry.output(*x.shape[2:]))


@pytest.mark.filterwarnings("ignore:.*the reference runs, and is slow")
@pytest.mark.parametrize("kernel", ["reference", "native"])
@pytest.mark.parametrize("outputs", [1, 8])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_results_and_gradients(geometry, channels, outputs, kernel):
    for form, size in itertools.product((CSR(), BSR(4, 1)), SIZES):
        if min(geometry.output(*size)) < 1:
            continue
        matrix = torch.randn(outputs, geometry.kernel[0] * geometry.kernel[1] * channels)
        layer = SparseConv2d(form.pack(matrix, torch.rand_like(matrix) < 0.7), torch.randn(outputs), geometry, kernel)
        for lay in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(2, channels, *size).to(memory_format=lay).requires_grad_()
            x2, weight = x.detach().double().requires_grad_(), layer.weight.detach().double().contiguous()
            y, expected = layer(x), by_unfolding(x2, weight, geometry) + layer.bias.detach().double()[:, None, None]
            torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
            grad = torch.randn(y.shape)
            y.backward(grad)
            expected.backward(grad.double())
            torch.testing.assert_close(x.grad.double(), x2.grad, rtol=1e-5, atol=1e-5)
            with torch.no_grad():
                again = layer(x)
            assert torch.equal(again, y) and again.stride() == y.stride()


def test_results_of_one_channel_are_plainly_strided():
    layer = SparseConv2d(BSR(1, 2).pack(torch.ones(1, 18), torch.ones(1, 18) > 0), None, Geometry((3, 3)), "reference")
    x = torch.randn(2, 2, 5, 6)
    assert layer(x).stride() == torch.empty(2, 1, 3, 4).stride()
    assert layer.to("meta")(x.to("meta")).stride() == torch.empty(2, 1, 3, 4).stride()


def test_plain_strides():
    odd = torch.randn(2, 7, 5, 1).permute(0, 3, 1, 2)
    assert odd.is_contiguous() and odd.stride() != torch.empty(2, 1, 7, 5).stride()
    assert plainly_strided(odd).stride() == torch.empty(2, 1, 7, 5).stride() and torch.equal(plainly_strided(odd), odd)


def test_dense_convolutions_of_one_channel_stay_as_they_are():
    net = nn.Sequential(nn.Conv2d(1, 8, 2), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 3))
    before = [net[i].weight for i in range(3)]
    strides = [weight.stride() for weight in before]
    channels_last(net)
    assert all(net[i].weight is before[i] for i in range(3))
    assert [net[i].weight.stride() for i in (0, 1)] == strides[:2]
    assert net[2].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_dense_convolution_beside_a_packed_one():
    convolutions = nn.Conv2d(1, 8, 2, (1, 2), 1), nn.ReLU(), nn.Conv2d(8, 16, (3, 1)), nn.ReLU()
    net = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(256, 4)).eval()
    x, mask = torch.randn(2, 1, 17, 1), torch.rand(16, 8, 3, 1) < 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, {"2.weight": mask}, example=x, formats={"2": BSR(4, 4)})
    assert isinstance(sparse[2], SparseConv2d)
    with torch.no_grad():
        first = by_unfolding(x.double(), net[0].weight.double(), GEOMETRIES[0]) + net[0].bias.double()[:, None, None]
        second = by_unfolding(first.relu(), (net[2].weight * mask).double(), Geometry((3, 1)))
        second = (second + net[2].bias.double()[:, None, None]).relu().flatten(1)
        expected = F.linear(second, net[5].weight.double(), net[5].bias.double())
        for _ in range(3):
            torch.testing.assert_close(sparse(x).double(), expected, rtol=1e-4, atol=1e-6)
