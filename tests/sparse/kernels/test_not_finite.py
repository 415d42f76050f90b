"""The rule for NaN and infinity in an input, of every format by every kernel: see docs/kernels.md."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.sparse import BSR, CSR, SemiStructured
from bayesprune.sparse.buffers.geometry import Geometry, conv_weight
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.layers.linear import SparseLinear

pytestmark = pytest.mark.filterwarnings("ignore:.*the reference runs, and is slow")

FORMATS = [CSR(), CSR(bits=8), BSR(4, 1), BSR(3, 5), BSR(16, 16), BSR(16, 4, bits=8), SemiStructured()]


def check(found, x, weight, mask, bias, product):
    """What sees it is not finite; what does not is the sum of what is kept, or NaN; other rows know nothing of it."""
    odd = ~x.isfinite()
    seen = product(odd.double(), mask.double(), None) > 0
    touched = product(odd.double(), torch.ones_like(mask).double(), None) > 0
    expected = product(torch.where(odd, 0, x).double(), weight.double(), bias.double())
    close = torch.isclose(found.double(), expected, rtol=1e-4, atol=1e-4)
    assert not bool(found[seen].isfinite().any())
    assert bool((close | found.isnan())[~seen].all())
    assert bool(close[~touched].all())
    assert bool(seen.any()) and bool((touched & ~seen).any()) and bool((~touched).any())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("tokens", [3, 33])
def test_products(form, kernel, tokens):
    mask = torch.zeros(40, 6, 8).scatter(2, torch.rand(40, 6, 8).argsort(2)[..., :2], 1).view(40, 48) > 0
    mask[:16, :16] = False  # blocks that are not there
    packed = form.pack(torch.randn(40, 48), mask)
    layer, x = SparseLinear(packed, torch.randn(40), kernel), torch.randn(tokens, 48)
    x[0, 3], x[1, 20] = float("nan"), float("-inf")
    if tokens > 3:
        x[17, 0], x[17, 40], x[32, 47] = float("inf"), float("-inf"), float("inf")
    with torch.no_grad():
        check(layer(x), x, packed.dense(), mask, layer.bias, F.linear)
    check(layer(x).detach(), x, packed.dense(), mask, layer.bias, F.linear)


@pytest.mark.parametrize("kernel", ["reference", "native"])
@pytest.mark.parametrize("form", [BSR(4, 4), BSR(8, 2, bits=8)], ids=str)
def test_convolutions(form, kernel):
    geometry = Geometry((3, 3), padding=(1, 1))
    mask = torch.rand(8, 36) < 0.2
    packed = form.pack(torch.randn(8, 36), mask)
    layer, x = SparseConv2d(packed, torch.randn(8), geometry, kernel), torch.randn(2, 4, 9, 8)
    x[0, 1, 4, 4], x[1, 3, 0, 0] = float("nan"), float("inf")

    def product(x, weight, bias):
        return F.conv2d(x, weight, bias, padding=1)

    with torch.no_grad():
        weight, kept = (conv_weight(matrix, geometry).contiguous() for matrix in (packed.dense(), mask))
        check(layer(x), x, weight, kept, layer.bias, product)


def test_a_masked_dense_layer_keeps_the_rule():
    mask, dense = torch.rand(40, 48) < 0.2, nn.Linear(48, 40)
    with torch.no_grad():
        dense.weight.mul_(mask)
        x = torch.randn(4, 48)
        x[1, 7] = float("inf")
        check(dense(x), x, dense.weight, mask, dense.bias, F.linear)
