"""Packing: what torch's own tensors hold, and what is refused."""

import pytest
import torch

from bayesprune.sparse import BSR, CSR, Dense, SparseWeight
from bayesprune.sparse.kernels.torch_sparse import TorchSparse


@pytest.mark.parametrize("form", [CSR(), BSR(4, 4), BSR(2, 3), BSR(4, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("keep", [0.0, 0.3, 1.0])
def test_to_torch_is_the_same_matrix(form, dtype, keep):
    weight, mask = torch.randn(8, 12).to(dtype), torch.rand(8, 12) < keep
    packed = form.pack(weight, mask)
    theirs = packed.to_torch()
    assert theirs.layout == (torch.sparse_csr if form == CSR() else torch.sparse_bsr)
    assert torch.equal(theirs.to_dense(), packed.dense())
    if keep:
        want = torch.where(mask, weight, 0)
        again = want.to_sparse_csr() if form == CSR() else want.to_sparse_bsr((form.h, form.w))
        assert torch.equal(theirs.crow_indices(), again.crow_indices().int())
        assert torch.equal(theirs.col_indices(), again.col_indices().int())
        assert torch.equal(theirs.values(), again.values())


def test_to_torch_shares_memory():
    packed = CSR().pack(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool))
    packed.values[0] = 5
    assert packed.to_torch().values()[0] == 5


def test_to_torch_of_ragged_blocks_says_why_not():
    with pytest.raises(ValueError, match=r"blocks that divide the weight, got BSR\(4, 4\) on shape \(10, 8\)"):
        BSR(4, 4).pack(torch.ones(10, 8), torch.ones(10, 8, dtype=torch.bool)).to_torch()


def test_dense_to_torch():
    assert torch.equal(Dense().pack(torch.ones(2, 2), torch.eye(2).bool()).to_torch(), torch.eye(2))


def test_no_warning_of_torch_reaches_the_user(recwarn):
    packed = CSR().pack(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool))
    packed.to_torch()
    packed.linear(torch.ones(1, 2), kernel="torch")
    assert not recwarn.list


@pytest.mark.parametrize("sides", [(0, 1), (1, 0), (-4, 4), (True, 2)])
def test_blocks_have_positive_sides(sides):
    with pytest.raises(ValueError, match="integer ≥ 1"):
        BSR(*sides)


def test_kept_zeros_are_stored_and_nothing_else():
    packed = CSR().pack(torch.zeros(3, 3), torch.eye(3, dtype=torch.bool))
    assert packed.values.tolist() == [0, 0, 0] and packed.col.tolist() == [0, 1, 2]
    blocks = BSR(2, 2).pack(torch.ones(3, 3), torch.eye(3, dtype=torch.bool))
    assert blocks.values.tolist() == [[[1, 0], [0, 1]], [[1, 0], [0, 0]]]  # the ragged edge too


def damaged(**changes):
    packed = BSR(2, 2).pack(torch.ones(6, 6), torch.eye(6, dtype=torch.bool))
    buffers = {"values": packed.values, "crow": packed.crow, "col": packed.col}
    return SparseWeight(packed.format, packed.shape, **(buffers | changes))


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"col": ints(0, 1, 3)}, r"col must lie in \[0, 3\)"),
        ({"col": ints(0, -1, 2)}, r"col must lie in \[0, 3\)"),
        ({"col": ints(0, 1)}, "one entry for each"),
        ({"crow": ints(0, 2, 1, 3)}, "never fall"),
        ({"crow": ints(1, 1, 2, 3)}, "rise from 0"),
        ({"crow": ints(0, 1, 2, 4)}, "rise from 0 to 3"),
        ({"crow": ints(0, 1, 3)}, "4 entries for 3 rows"),
        ({"values": torch.ones(3, 2, 3)}, "needs values"),
        ({"values": torch.ones(12)}, "needs values"),
    ],
)
def test_damaged_indices_are_refused(changes, message):
    packed = damaged(**changes)
    with pytest.raises(ValueError, match=message):
        packed.format.check(packed)


def test_torch_kernel_takes_only_what_torch_can():
    kernel = TorchSparse()
    weight, mask = torch.ones(10, 8), torch.ones(10, 8, dtype=torch.bool)
    assert kernel.supports(CSR().pack(weight, mask))
    assert kernel.supports(BSR(2, 2).pack(weight, mask))
    assert not kernel.supports(CSR().pack(weight.bfloat16(), mask))
    assert not kernel.supports(BSR(2, 4).pack(weight, mask))
    assert not kernel.supports(BSR(4, 4).pack(weight, mask))
