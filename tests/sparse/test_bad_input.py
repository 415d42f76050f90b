"""Bad input to the sparse half: what is refused, and in which words; and what looks odd but is right."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.sparse import BSR, CSR, Dense, SparseLinear, export, plan
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.layers.conv import SparseConv2d

FORMATS = [BSR(4, 4), BSR(16, 1), BSR(3, 5), CSR(), BSR(4, 4, bits=8), CSR(bits=8)]


def weight_and_mask(keep=0.3):
    return torch.randn(32, 48), torch.rand(32, 48) < keep


def layer(form, kernel="native", dtype=torch.float32):
    weight, mask = weight_and_mask()
    return SparseLinear(form.pack(weight.to(dtype), mask), torch.randn(32, dtype=dtype), kernel)


@pytest.mark.parametrize("size", [0, -1, -16, True])
def test_a_side_of_a_block_is_a_positive_integer(size):
    with pytest.raises(ValueError, match=f"BSR needs h to be an integer ≥ 1, got {size!r}"):
        BSR(size, 4)
    with pytest.raises(ValueError, match=f"BSR needs w to be an integer ≥ 1, got {size!r}"):
        BSR(4, size)


@pytest.mark.parametrize("make", [lambda bits: BSR(4, 4, bits=bits), lambda bits: CSR(bits=bits)], ids=["BSR", "CSR"])
@pytest.mark.parametrize("bits", [0, 5, 16, True])
def test_bits_are_eight_or_four_or_none(make, bits):
    says = rf"bits is 8 or 4 \(integers with a scale per output\) or None .*, got {bits!r}"
    with pytest.raises(ValueError, match=says):
        make(bits)


@pytest.mark.parametrize("form", [*FORMATS, Dense()], ids=str)
def test_what_is_packed(form):
    weight, mask = weight_and_mask()
    refused = [
        (weight[0], mask[0], r"a floating-point matrix \(out, in\) can be packed, got torch.float32 of shape \(48,\)"),
        (weight[None], mask[None], r"got torch.float32 of shape \(1, 32, 48\)"),
        (weight.int(), mask, r"got torch.int32 of shape \(32, 48\)"),
        (weight.to(torch.complex64), mask, "got torch.complex64"),
        (weight, mask.T, r"bool in the weight's shape \(32, 48\), got torch.bool of shape \(48, 32\)"),
        (weight, mask[:, :1], r"got torch.bool of shape \(32, 1\)"),
        (weight, mask.float(), "the mask must be bool .* got torch.float32"),
        (weight.to("meta"), mask.to("meta"), "must be on one device and hold values, got meta and meta"),
        (weight.to("meta"), mask, "got meta and cpu"),
        (weight, mask.to("meta"), "got cpu and meta"),
    ]
    for bad_weight, bad_mask, message in refused:
        with pytest.raises(ValueError, match=message):
            form.pack(bad_weight, bad_mask)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("form", [BSR(4, 4, bits=8), CSR(bits=8)], ids=str)
def test_eight_bits_hold_no_infinity(form, value):
    weight, mask = weight_and_mask()
    weight[~mask] = value  # which the mask takes away
    form.pack(weight, mask)
    weight[tuple(mask.nonzero()[-1])] = value
    with pytest.raises(ValueError, match="a weight of 8 bits is finite, this one holds NaN or infinity"):
        form.pack(weight, mask)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_any_strides_of_x(form, kernel):
    made = layer(form, kernel)
    wide = torch.randn(7, 3, 96)
    strided = {
        "every second": wide[..., ::2],
        "a window": wide[..., 5:53],
        "turned round": torch.randn(48, 7).T,
        "three axes turned round": torch.randn(48, 3, 7).permute(2, 1, 0),
        "one row for all": torch.randn(48).expand(7, 48),
        "one number for all": torch.randn(7, 1).expand(7, 48),
        "flipped": wide[..., :48].flip(-1),
    }
    for name, x in strided.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = made(x)
        expected = F.linear(x, made.weight, made.bias)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_any_strides_of_an_image():
    weight, mask = torch.randn(16, 9 * 8), torch.rand(16, 9 * 8) < 0.3
    for kernel in ("native", "reference"):
        made = SparseConv2d(BSR(4, 2).pack(weight, mask), torch.randn(16), Geometry((3, 3), padding=(1, 1)), kernel)
        x = torch.randn(2, 16, 20, 10)
        cut = x[:, :8, ::2, 1:9], x.transpose(2, 3)[:, ::2], x[:, :1].expand(2, 8, 20, 10)
        for image in (*cut, *(part.contiguous(memory_format=torch.channels_last) for part in cut)):
            torch.testing.assert_close(
                made(image), F.conv2d(image, made.weight, made.bias, padding=1), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("shape", [(47,), (2, 47), (48, 2), (2, 3, 49), (2, 0), ()])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_the_last_dimension(form, shape):
    says = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    for kernel in ("native", "reference"):
        with pytest.raises(
            ValueError, match=rf"expected x with 48 features in its last dimension, got shape \({says}\)"
        ):
            layer(form, kernel)(torch.randn(shape))


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_dtypes_that_do_not_go_together(form):
    made = layer(form)
    others = [torch.int64, torch.int32, torch.bool, torch.complex64]
    for dtype in others if form.bits else [*others, torch.float64, torch.bfloat16]:
        with pytest.raises(
            ValueError, match=f"expected x in torch.float32 on cpu, as the weight is, got {dtype} on cpu"
        ):
            made(torch.ones(2, 48).to(dtype))
    with pytest.raises(ValueError, match=r"expected bias in torch.float32 on cpu, as the weight is, got torch.float64"):
        SparseLinear(made.sparse_weight, torch.ones(32, dtype=torch.float64), "native")(torch.ones(2, 48))


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_a_kernel_that_lacks_a_dtype_says_so_and_the_result_is_right(form):
    made = layer(form).double()
    x = torch.randn(3, 48, dtype=torch.float64)
    stored = torch.int8 if form.bits else torch.float64
    named = rf"the kernel 'native' does not take .*{stored} on cpu here, with x in torch.float64: the reference runs"
    with pytest.warns(UserWarning, match=named):
        found = made(x)
    torch.testing.assert_close(found, F.linear(x, made.weight.double(), made.bias))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.float()(x.float())


def test_dtypes_that_no_kernel_takes_are_named_in_the_plan():
    net = nn.Sequential(nn.Linear(8, 8, dtype=torch.complex64))
    masks = {"0.weight": torch.eye(8, dtype=torch.bool)}
    with pytest.warns(UserWarning, match="weights of torch.complex64 have no sparse kernel"):
        made = plan(net, masks, example=torch.ones(2, 8, dtype=torch.complex64), formats={"0": CSR()})
    assert "masked dense: weights of torch.complex64 have no sparse kernel" in made["0.weight"].reason


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
def test_meta_tensors_give_shapes(form, kernel):
    made = layer(form, kernel)
    for moved in (made, made.to("meta")):
        y = moved(torch.empty(5, 2, 48, device="meta"))
        assert y.is_meta and y.shape == (5, 2, 32) and y.dtype == torch.float32


def test_a_layer_without_values_takes_no_x_that_has_some():
    made = layer(CSR()).to("meta")
    with torch.no_grad(), pytest.raises((ValueError, RuntimeError, NotImplementedError), match="meta"):
        made(torch.ones(2, 48))


@pytest.mark.parametrize("form", [BSR(16, 1), BSR(4, 4), BSR(64, 64), BSR(5, 7)], ids=str)
def test_a_mask_that_is_no_multiple_of_the_forced_pattern(form):
    """Its blocks are stored whole, zeros where the mask takes away; the plan says how much that is."""
    net = nn.Sequential(nn.Linear(48, 32))
    masks, x = {"0.weight": torch.rand(32, 48) < 0.1}, torch.randn(3, 48)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, masks, example=x, formats={"0": form})
        choice = plan(net, masks, example=x, formats={"0": form})["0.weight"]
    assert sparse[0].format == form
    torch.testing.assert_close(sparse(x), F.linear(x, net[0].weight * masks["0.weight"], net[0].bias))
    stored = sparse[0].values.numel() / int(masks["0.weight"].sum())
    assert f"asked for, storing {stored:.1f}× what the mask keeps" in choice.reason


def test_a_mask_that_is_a_multiple_of_it_has_nothing_to_say():
    net = nn.Sequential(nn.Linear(48, 32))
    masks = {"0.weight": (torch.rand(8, 12) < 0.3).repeat_interleave(4, 0).repeat_interleave(4, 1)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        choice = plan(net, masks, example=torch.randn(3, 48), formats={"0": BSR(4, 4)})["0.weight"]
    assert choice.reason.endswith("asked for")


@pytest.mark.parametrize(
    ("channels", "groups", "form"),
    [((8, 16), 4, BSR(8, 2)), ((8, 24), 2, BSR(8, 2)), ((8, 16), 2, BSR(4, 8)), ((8, 16), 2, BSR(4, 3))],
    ids=str,
)
def test_blocks_that_reach_over_a_group_or_a_position_are_left_to_the_reference(channels, groups, form):
    into, out = channels
    net = nn.Sequential(nn.Conv2d(into, out, 3, groups=groups))
    masks, x = {"0.weight": torch.rand_like(net[0].weight) < 0.3}, torch.randn(2, into, 6, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, masks, example=x, formats={"0": form})
    assert sparse[0].kernel == "reference"
    expected = F.conv2d(x, net[0].weight * masks["0.weight"], net[0].bias, groups=groups)
    torch.testing.assert_close(sparse(x), expected, rtol=1e-4, atol=1e-5)
    sparse[0].kernel = "native"  # as a file may say
    with pytest.warns(
        UserWarning, match=f"'native' does not take {form.h}×{form.w} blocks of torch.float32 on cpu here"
    ):
        torch.testing.assert_close(sparse(x), expected, rtol=1e-4, atol=1e-5)
