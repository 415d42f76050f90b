"""The short way to the kernel gives what the op gives, and is taken only where nothing would miss the op."""

import warnings

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from bayesprune.sparse import BSR
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.kernels.dispatch import unwatched
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.layers.linear import SparseLinear


class Seen(TorchDispatchMode):
    """Remembers which of our ops came by."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "bayesprune":
            self.ops.append(func._opname)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def layer() -> SparseLinear:
    torch.manual_seed(0)
    mask = torch.rand(32, 48) < 0.3
    return SparseLinear(BSR(8, 4).pack(torch.randn(32, 48), mask), torch.randn(32), "native", "relu")


@pytest.fixture
def conv() -> SparseConv2d:
    torch.manual_seed(0)
    packed = BSR(8, 4).pack(torch.randn(16, 9 * 8), torch.rand(16, 9 * 8) < 0.3)
    return SparseConv2d(packed, torch.randn(16), Geometry((3, 3), padding=(1, 1)), "native")


@pytest.mark.parametrize("lead", [(), (0,), (1,), (5,), (2, 3), (2, 0)])
def test_both_ways_agree_to_the_bit(layer, lead):
    x = torch.randn(*lead, 48)
    op = layer(x)
    with torch.no_grad():
        assert unwatched(x, layer.values)
        assert torch.equal(layer(x), op.detach())


def test_both_ways_of_a_convolution_agree_to_the_bit(conv):
    for x in (torch.randn(3, 8, 7, 5), torch.randn(8, 7, 5), torch.randn(0, 8, 7, 5)):
        op = conv(x)
        with torch.no_grad():
            short = conv(x)
        assert torch.equal(short, op.detach()) and short.stride() == op.stride()


def test_what_watches_sees_the_op(layer, conv):
    with torch.no_grad():
        with Seen() as seen:
            layer(torch.randn(2, 48))
            conv(torch.randn(1, 8, 7, 5))
        assert seen.ops == ["sparse_linear", "sparse_conv2d"]
        with torch.profiler.profile() as profile:
            layer(torch.randn(2, 48))
        assert "bayesprune::sparse_linear" in {event.key for event in profile.key_averages()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is on its way out
            graph = torch.jit.trace(layer, torch.randn(2, 48)).graph
        assert any(node.kind() == "bayesprune::sparse_linear" for node in graph.nodes())


def test_only_plain_tensors_take_the_short_way(layer):
    class Own(torch.Tensor):
        pass

    x = torch.randn(2, 48)
    assert not unwatched(x, layer.values)  # a gradient may be wanted
    with torch.no_grad():
        assert unwatched(x, layer.values)
        assert not unwatched(x.as_subclass(Own), layer.values)
        with torch.autocast("cpu"):
            assert not unwatched(x, layer.values)
        with torch.device("meta"):
            assert not unwatched(x, layer.values)
        found = []
        torch.func.vmap(lambda row: found.append(unwatched(row, layer.values)) or row)(x)
        assert found == [False]
        with forward_ad.dual_level():
            assert not unwatched(x, layer.values)
    with torch.inference_mode():
        assert torch.equal(layer(x), layer(x.clone()))


def test_a_parametrised_bias_is_not_passed_over(layer):
    class Doubled(nn.Module):
        def forward(self, bias):
            return 2 * bias

    x = torch.randn(3, 48)
    with torch.no_grad():
        layer.values.zero_()
        once = layer(x)
        nn.utils.parametrize.register_parametrization(layer, "bias", Doubled())
        torch.testing.assert_close(layer(x), 2 * once)


def test_tensors_that_were_moved_are_read_where_they_are(layer):
    x = torch.randn(3, 48)
    with torch.no_grad():
        before = layer(x)
        layer.values.data = layer.values.data.clone().mul_(2)
        layer.bias.data = layer.bias.data.clone().mul_(2)
        torch.testing.assert_close(layer(x), 2 * before)
        with pytest.raises(ValueError, match=r"expected x in torch.bfloat16"):
            layer.bfloat16()(x)
        torch.testing.assert_close(layer(x.bfloat16()).float(), 2 * before, rtol=0.05, atol=0.2)
