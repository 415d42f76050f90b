"""Every format times every kernel is ``F.linear(x, weight * mask)``, in float64 terms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesprune.sparse import BSR, CSR, Dense
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.layers.linear import SparseLinear

pytestmark = pytest.mark.filterwarnings("ignore:.*the reference runs, and is slow")

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
formats = st.one_of(st.just(CSR()), st.just(Dense()), st.builds(BSR, st.integers(1, 20), st.integers(1, 20)))


def compare(form, kernel, weight, mask, x, bias):
    layer = SparseLinear(form.pack(weight, mask), bias, kernel)
    with torch.no_grad():
        got = layer(x)
    dense = torch.where(mask, weight, 0).double()
    offset = torch.zeros(weight.shape[0]).double() if bias is None else bias.double()
    want = x.double() @ dense.T + offset
    scale = x.double().abs() @ dense.abs().T + offset.abs()
    assert got.shape == want.shape and got.dtype == x.dtype and got.is_contiguous()
    assert ((got.double() - want).abs() <= TOLERANCE[x.dtype] * scale + 1e-7 * (x.dtype == torch.float16)).all()


@settings(max_examples=150, deadline=None)
@given(
    formats,
    st.sampled_from(sorted(KERNELS)),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([(), (0,), (1,), (7,), (2, 3), (2, 0, 3), (2, 1, 2, 2)]),
    st.sampled_from(list(TOLERANCE)),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_any_shape(form, kernel, out, into, lead, dtype, keep, has_bias, seed):
    torch.manual_seed(seed)
    weight, mask = torch.randn(out, into).to(dtype), torch.rand(out, into) < keep
    compare(
        form, kernel, weight, mask, torch.randn(*lead, into).to(dtype), torch.randn(out).to(dtype) if has_bias else None
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("form", [CSR(), BSR(16, 1), BSR(16, 16), BSR(4, 8), BSR(64, 64)], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_layer_sized(form, kernel, dtype):
    weight, mask = torch.randn(300, 784).to(dtype), torch.rand(300, 784) < 0.05
    mask[:16], mask[-1] = False, False  # empty rows at both ends
    compare(form, kernel, weight, mask, torch.randn(33, 784).to(dtype), torch.randn(300).to(dtype))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("form", [CSR(), BSR(2, 2)], ids=str)
def test_strided_and_expanded_input(form, kernel):
    weight, mask = torch.randn(6, 8), torch.rand(6, 8) < 0.5
    for x in (torch.randn(8, 5).T, torch.randn(5, 16)[:, ::2], torch.randn(1, 8).expand(5, 8)):
        compare(form, kernel, weight, mask, x, None)


def test_all_formats_agree_on_what_they_hold():
    weight, mask = torch.randn(13, 9), torch.rand(13, 9) < 0.3
    for form in (Dense(), CSR(), BSR(4, 2), BSR(1, 1), BSR(20, 20)):
        packed = form.pack(weight, mask)
        form.check(packed)
        assert torch.equal(packed.dense(), torch.where(mask, weight, 0))
        assert packed.nbytes == form.nbytes(mask, 4)
        assert torch.equal(packed.linear(torch.eye(9)), packed.dense().T)
