"""A format of one's own: one class, and one line in the table."""

import copy
import warnings
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn

from bayesprune.sparse import Format, SparseLinear, SparseWeight, export, formats, load, save

pytestmark = pytest.mark.filterwarnings("ignore:.*is slower")


@dataclass(frozen=True, repr=False)
class Columns(Format):
    """Whole inputs, from a stride on: input k is kept where the mask keeps any of it."""

    most: int = 64

    def refusal(self, mask: Tensor) -> str | None:
        kept = int(mask.any(0).count_nonzero())
        return None if kept <= self.most else f"{self} holds {self.most} inputs at most, the mask keeps {kept}"

    def _pack(self, weight: Tensor, mask: Tensor, variance: Tensor | None) -> SparseWeight:
        col = mask.any(0).nonzero()[:, 0].int()
        return SparseWeight(self, tuple(weight.shape), torch.where(mask, weight, 0)[:, col.long()], col[:0], col)

    def unpack(self, values: Tensor, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Tensor:
        return values.new_zeros(shape).index_copy(1, col.long(), values)

    def gather(self, dense: Tensor, crow: Tensor, col: Tensor) -> Tensor:
        return dense[:, col.long()]

    def to_torch(self, packed) -> Tensor:
        return packed.dense().detach().to_sparse()

    def check(self, packed: SparseWeight) -> None:
        if packed.values.shape != (packed.shape[0], packed.col.numel()) or bool((packed.col >= packed.shape[1]).any()):
            raise ValueError("the inputs lie outside the weight")

    def nbytes(self, mask: Tensor, itemsize: int) -> int:
        return int(mask.any(0).count_nonzero()) * (mask.shape[0] * itemsize + 4)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(formats, "FORMATS", MappingProxyType({**formats.FORMATS, "Columns": Columns}))
    yield
    formats.written.cache_clear()


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(20, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3)).eval()


@pytest.mark.parametrize("compress", [False, True])
def test_it_is_exported_saved_loaded_and_trained(registered, net, masked_dense, tmp_path, compress):
    nn.init.normal_(net[1].running_mean)
    masks, x = {"0.weight": (torch.rand(20) < 0.4).expand(12, 20).clone()}, torch.randn(7, 20)
    sparse = export(net, {}, masks, example=x, formats={"0": Columns()}, cached=False)
    assert sparse[0].format == Columns() and isinstance(sparse[1], nn.Identity)  # the normalisation is worked into it
    torch.testing.assert_close(sparse(x), masked_dense(net, masks)(x))
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), masked_dense(net, masks)(x))
    save(sparse, tmp_path / "m.bp", compress=compress)
    again = load(tmp_path / "m.bp")
    assert again[0].format == Columns() and torch.equal(again[0].col, sparse[0].col)
    torch.testing.assert_close(again(x), sparse(x), rtol=0, atol=0.02 if compress else 0)
    dense = masked_dense(net, masks)
    dense(x).square().sum().backward()
    copied = copy.deepcopy(sparse)
    copied(x).square().sum().backward()
    factor = net[1].weight / (net[1].running_var + net[1].eps).sqrt()
    expected = Columns().gather(dense[0].weight.grad, copied[0].crow, copied[0].col) / factor.detach()[:, None]
    torch.testing.assert_close(copied[0].values.grad, expected)


def test_it_is_exported_by_torch_and_written_as_others_are(registered, net):
    assert formats.written("Columns(9)") == Columns(9) and str(Columns(9)) == "Columns(9)"
    mask, x = (torch.arange(20) % 3 == 0).expand(12, 20), torch.randn(5, 20)
    layer = SparseLinear(Columns(9).pack(net[0].weight.detach(), mask), net[0].bias)
    assert torch.equal(torch.export.export(layer, (x,)).module()(x), layer(x))


def test_a_mask_that_it_refuses_stays_masked_dense(registered, net):
    masks = {"0.weight": torch.rand(12, 20) < 0.9}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, masks, example=torch.randn(7, 20), formats={"0": Columns(2)}, cached=False)
    assert type(sparse[0]) is nn.Linear


def test_a_format_that_is_not_in_the_table():
    with pytest.raises(ValueError, match="no format is called 'Columns'; this version knows Dense, CSR, BSR"):
        formats.written("Columns(64)")
    with pytest.raises(ValueError, match="a format is written as"):
        formats.written("BSR(16, 1")
    with pytest.raises(ValueError, match="BSR is not made of"):
        formats.written("BSR(16)")
