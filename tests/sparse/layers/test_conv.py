"""Sparse convolutions: kernels, the op, plan, export, file, gradients."""

import copy
import io
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.sparse import BSR, CSR, export, load, plan, save
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.surgery.eligibility import conv_geometry, weight_matrix

pytest.importorskip("llvmlite")

TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}

# name -> (convolution, block, images, height, width)
CASES = {
    "3×3": (lambda: nn.Conv2d(32, 32, 3, padding=1), (16, 16), 2, 14, 14),
    "strided": (lambda: nn.Conv2d(32, 64, 3, stride=2, padding=1), (16, 8), 2, 13, 17),
    "dilated": (lambda: nn.Conv2d(16, 32, 5, padding=2, dilation=2), (8, 4), 1, 20, 11),
    "grouped": (lambda: nn.Conv2d(32, 64, 3, padding=1, groups=2), (16, 16), 3, 4, 4),
    "1×1": (lambda: nn.Conv2d(32, 32, 1), (16, 16), 2, 7, 7),
    "1×1, strided": (lambda: nn.Conv2d(32, 32, 1, stride=2), (16, 16), 2, 8, 8),
    "ragged outputs": (lambda: nn.Conv2d(16, 40, 3), (16, 4), 2, 9, 30),
    "oblong": (lambda: nn.Conv2d(8, 24, (3, 1), padding=(1, 0), bias=False), (4, 2), 2, 6, 50),
    "eight bits": (lambda: nn.Conv2d(16, 32, 3, padding=1), (16, 8), 2, 8, 8),
}


def packed(name, dtype=torch.float32, kernel="native", activation=""):
    """A packed convolution of the case, and its dense twin in float64."""
    make, (h, w), *_ = CASES[name]
    torch.manual_seed(0)
    conv = make()
    matrix = weight_matrix(nn.Sequential(conv), "0.weight", conv.weight.detach())
    grid = torch.rand(-(-matrix.shape[0] // h), matrix.shape[1] // w) < 0.4
    mask = grid.repeat_interleave(h, 0).repeat_interleave(w, 1)[: matrix.shape[0]]
    form = BSR(h, w, bits=8) if name == "eight bits" else BSR(h, w)
    geometry = conv_geometry(conv)
    bias = None if conv.bias is None else conv.bias.detach().to(dtype)
    made = SparseConv2d(form.pack(matrix.to(dtype), mask), bias, geometry, kernel, activation)
    twin = copy.deepcopy(conv).double()
    twin.weight.data = made.weight.detach().double()
    if bias is not None:
        twin.bias.data = bias.double()
    return made, twin


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_the_masked_dense(name, dtype):
    made, twin = packed(name, dtype)
    _, _, images, height, width = CASES[name]
    x = torch.randn(images, twin.in_channels, height, width).to(dtype)
    assert KERNELS["native"].takes_conv(made.sparse_weight, dtype, made.geometry)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        with torch.no_grad():
            found, expected = made(given), twin(x.double())
        size = F.conv2d(
            x.double().abs(), twin.weight.detach().abs(), None, twin.stride, twin.padding, twin.dilation, twin.groups
        )
        assert found.shape == expected.shape and found.dtype == dtype
        assert float(((found.double() - expected).abs() / (size + 0.1)).max()) < TOLERANCE[dtype]
        assert found.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(made(x[0]), made(x)[0])
        assert made(x[:0]).shape == (0, *found.shape[1:])


@pytest.mark.parametrize("activation", ["", "relu", "gelu"])
@pytest.mark.parametrize("name", ["3×3", "grouped", "oblong"])
def test_gradients_are_those_of_the_masked_dense(name, activation):
    made, twin = packed(name, activation=activation)
    _, _, images, height, width = CASES[name]
    one = torch.randn(images, twin.in_channels, height, width, requires_grad=True)
    two = one.detach().double().requires_grad_()
    after = {"": lambda y: y, "relu": F.relu, "gelu": F.gelu}[activation]
    grad = torch.randn(made(one).shape)
    made(one).backward(grad)
    after(twin(two)).backward(grad.double())
    torch.testing.assert_close(one.grad.double(), two.grad, rtol=1e-4, atol=1e-4)
    matrix = weight_matrix(nn.Sequential(twin), "0.weight", twin.weight.grad)
    h, w = made.format.h, made.format.w
    rows = torch.repeat_interleave(torch.arange(len(made.crow) - 1), made.crow.diff())
    blocks = matrix.reshape(-1, h, matrix.shape[1] // w, w).permute(0, 2, 3, 1)[rows, made.col.long()]
    torch.testing.assert_close(made.values.grad.double(), blocks, rtol=1e-4, atol=1e-3)
    if made.bias is not None:
        torch.testing.assert_close(made.bias.grad.double(), twin.bias.grad, rtol=1e-4, atol=1e-3)


def block_mask(conv, h, w, keep):
    grid = torch.rand(conv.out_channels // h, conv.weight.shape[1] // w, *conv.kernel_size) < keep
    return grid.repeat_interleave(h, 0).repeat_interleave(w, 1)


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.Flatten(),
            nn.Linear(64 * 64, 10),
        )


def test_a_net_of_convolutions_is_planned_exported_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(*Net()).eval()
    masks = {"2.weight": block_mask(net[2], 16, 16, 0.3), "4.weight": block_mask(net[4], 16, 8, 0.3)}
    x = torch.randn(2, 3, 16, 16)
    choice = plan(net, masks, example=x)["2.weight"]
    assert "BSR(16, 16) native" in choice.seconds and "2 images of 16×16" in choice.reason
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, masks, example=x, formats={"2": BSR(16, 16), "4": BSR(16, 8)})
    assert [type(sparse[i]) for i in (2, 4)] == [SparseConv2d, SparseConv2d]
    assert sparse[2].activation == "relu" and isinstance(sparse[3], nn.Identity)
    dense = copy.deepcopy(net)
    for name, mask in masks.items():
        dense.get_parameter(name).data.masked_fill_(~mask, 0)
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), dense(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sparse[2].weight, dense[2].weight)
        save(sparse, tmp_path / "a.safetensors")
        again = load(tmp_path / "a.safetensors")
        assert torch.equal(again(x), sparse(x))
        assert isinstance(again[2], SparseConv2d) and again[4].geometry == sparse[4].geometry
        assert torch.equal(load(tmp_path / "a.safetensors", net=net)(x), sparse(x))
    assert torch.equal(copy.deepcopy(sparse)(x), sparse(x))


def test_what_cannot_walk_so_stays_dense_and_says_why():
    torch.manual_seed(0)
    nets = [nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"), nn.Conv2d(16, 16, 3, padding="same")]
    for conv in nets:
        net = nn.Sequential(conv)
        made = plan(net, {"0.weight": block_mask(conv, 16, 16, 0.5)}, example=torch.randn(1, 16, 8, 8))
        assert "Conv2d has no sparse kernel" in made["0.weight"].reason
    odd = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1))
    made = plan(odd, {"0.weight": torch.rand(16, 16, 3, 3) < 0.5}, example=torch.randn(1, 16, 8, 8))
    assert "masked dense: the mask fills no block that Conv2d can run packed" in made["0.weight"].reason


def test_other_kernels_and_formats_give_way_to_the_reference():
    made, twin = packed("3×3", kernel="gather")
    x = torch.randn(1, 32, 6, 6)
    torch.testing.assert_close(made(x).double(), twin(x.double()), rtol=1e-4, atol=1e-5)
    matrix = weight_matrix(nn.Sequential(twin), "0.weight", twin.weight.detach()).float()
    csr = SparseConv2d(CSR().pack(matrix, matrix != 0), made.bias, made.geometry, "native")
    torch.testing.assert_close(csr(x).double(), twin(x.double()), rtol=1e-4, atol=1e-5)


def test_bad_input_says_what_was_expected():
    made, _ = packed("3×3")
    with pytest.raises(ValueError, match=r"expected x \(images, 32, rows, columns\).*got shape \(2, 16, 8, 8\)"):
        made(torch.randn(2, 16, 8, 8))
    with pytest.raises(ValueError, match=r"expected x in torch.float32 on cpu"):
        made(torch.randn(2, 32, 8, 8, dtype=torch.float64))
    valid = SparseConv2d(made.sparse_weight, None, Geometry((3, 3)), "native")
    with pytest.raises(ValueError, match=r"an image of \(2, 9\) pixels is smaller than the kernel"):
        valid(torch.randn(1, 32, 2, 9))


def test_opcheck():
    made, _ = packed("strided")
    x = torch.randn(1, 32, 7, 6, requires_grad=True)
    g = made.geometry
    sizes = (*(list(s) for s in (g.kernel, g.stride, g.padding, g.dilation)), g.groups)
    args = (x, made.values, made.crow, made.col, made.bias, None, 64, 32, *sizes, str(made.format), "native", "relu")
    torch.library.opcheck(torch.ops.bayesprune.sparse_conv2d.default, args, atol=1e-4, rtol=1e-4)


COMPILE = """
import io, torch, warnings
from torch import nn
from bayesprune.sparse import BSR, export
warnings.simplefilter("ignore")
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2)).eval()
masks = {n: (torch.rand(p.shape[0] // 16, 1, 3, 3) < 0.5).repeat_interleave(16, 0).repeat_interleave(16, 1)
         for n, p in net.named_parameters() if p.dim() == 4}
x = torch.randn(2, 16, 9, 9)
sparse = export(net, {}, masks, example=x, formats={"*": BSR(16, 16)})
expected = sparse(x)
torch.testing.assert_close(torch.compile(sparse, fullgraph=True, backend="aot_eager")(x), expected)
file = io.BytesIO()
torch.export.save(torch.export.export(sparse, (x,)), file)
file.seek(0)
torch.testing.assert_close(torch.export.load(file).module()(x), expected)
"""


def test_the_compiler_and_export_take_it():
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_pickles():
    made, _ = packed("grouped")
    x = torch.randn(1, 32, 5, 5)
    file = io.BytesIO()
    torch.save(made, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), made(x))
