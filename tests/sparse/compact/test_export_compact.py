"""export(compact=True) packs what is left; formats, bits and variances go with the smaller weights."""

import warnings

import pytest
import torch
from support.compact_nets import NETS, call, masked, mixture, outputs, scrambled, spread
from torch import nn

import bayesprune as bp
from bayesprune.sparse import SparseLinear
from bayesprune.sparse.compact import compact
from bayesprune.sparse.planning.planner import left_bits


def apart(a, b):
    """The largest difference, relative to the largest number."""
    return float((a - b).detach().abs().max() / b.detach().abs().max())


def packed(net, masks, example, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bp.export(net, {}, masks, example=example, compact=True, **how)


@pytest.mark.parametrize("name", ["lenet-5", "resnet18", "vit", "encoder, norm last"])
def test_what_is_left_is_packed_and_saved(name, tmp_path):
    torch.manual_seed(1)
    net, x = NETS[name]()
    masks = mixture(scrambled(net), 0.5)
    one = next(n for n, m in masks.items() if m.dim() == 2)
    sparse = packed(net, masks, x, formats={"*": bp.BSR(1, 1), one: bp.CSR()})
    with torch.no_grad():
        y = call(sparse, x)
        assert apart(y, call(masked(net, masks), x)) <= 1e-5
        bp.save(sparse, tmp_path / "m.safetensors")
        loaded = bp.load(tmp_path / "m.safetensors", net=net)
        assert torch.equal(call(loaded, x), y)
    assert "format=BSR(1, 1)" in repr(sparse) and repr(loaded) == repr(sparse)


def half_and_half():
    """The first layer loses units, the second single entries."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8)).eval(), torch.randn(5, 16)
    masks = {"0.weight": spread(net, "0.weight", bp.Channel(0), 0.5)}
    masks["2.weight"] = spread(net, "2.weight", bp.Unstructured(), 0.6)
    return net, x, masks


def test_formats_for_weights_that_are_no_longer_masked_are_passed_over():
    net, x, masks = half_and_half()
    sparse = packed(net, masks, x, formats={"0": bp.CSR(), "2": bp.CSR()})
    assert type(sparse[0]) is nn.Linear and isinstance(sparse[2], SparseLinear)
    assert apart(sparse(x), masked(net, masks)(x)) <= 1e-5
    with pytest.raises(ValueError, match=r"formats\['conv\*'\] matches no masked weight"):
        packed(net, masks, x, formats={"conv*": bp.CSR()})


def test_bits_and_variances_go_with_the_entries_that_stay():
    net, x, masks = half_and_half()
    variances = {name: torch.rand_like(net.get_parameter(name)) for name in masks}
    form = bp.CSR(bits=4)
    sparse = packed(net, masks, x, formats={"2": form}, variances=variances)
    small = compact(net, {}, masks, example=x)
    left = small.masks["2.weight"]
    expected = form.pack(small.net[2].weight.detach(), left, small.cut(variances)["2.weight"]).dense()
    torch.testing.assert_close(sparse[2].weight, expected, rtol=0, atol=0)
    assert not torch.equal(expected, form.pack(small.net[2].weight.detach(), left).dense())
    packed(net, masks, x, bits={"0.weight": 3, "2.weight": 7})
    with pytest.raises(ValueError, match="bits name 'fc'"):
        packed(net, masks, x, bits={"fc": 3})


def attention_without_a_head():
    """Of attention that loses heads the projection gets a new name."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
    net, x = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval(), torch.randn(3, 7, 16)
    name = "layers.0.self_attn.in_proj_weight"
    mask = torch.rand(48, 16) < 0.6
    for part in range(3):
        mask[16 * part : 16 * part + 4] = False
    return net, x, name, mask


@pytest.mark.parametrize("said", ["layers.0.self_attn.in_proj_weight", "layers.0.self_attn", "*in_proj.weight"])
def test_bits_formats_and_variances_go_with_weights_that_are_renamed(said):
    net, x, name, mask = attention_without_a_head()
    variances = {name: torch.rand(48, 16), "layers.0.linear1.weight": torch.rand(32, 16)}
    small = compact(net, {}, {name: mask}, example=x)
    new = small.now(name)
    assert new == ("layers.0.self_attn.in_proj.weight",) and set(small.masks) == {*new}
    cut = small.cut(variances)
    assert torch.equal(cut[new[0]], variances[name].view(3, 16, 16)[:, 4:].reshape(36, 16))
    weight = small.net.get_parameter(new[0]).detach()
    sparse = packed(net, {name: mask}, x, formats={said: bp.CSR(bits=4)}, variances=variances)
    expected = bp.CSR(bits=4).pack(weight, small.masks[new[0]], cut[new[0]]).dense()
    assert torch.equal(sparse.get_submodule("layers.0.self_attn.in_proj").weight, expected)
    told = left_bits({name: 3}, {name: new}, small.masks)
    assert told == {new[0]: 3}


def test_variances_of_weights_without_a_mask_are_passed_over(tmp_path):
    net, x, masks = half_and_half()
    small = compact(net, {}, masks, example=x)
    variances = small.cut({name: torch.rand_like(p) for name, p in net.named_parameters()})
    assert len(small.masks) < len(masks) < len(variances)
    sparse = bp.export(small.net, {}, small.masks, example=x, variances=variances)
    bp.save(sparse, tmp_path / "m", compress=True, variances=variances)
    with pytest.raises(ValueError, match=r"the net was made smaller: take what bp.compact\(…\).cut\(variances\) gives"):
        bp.save(sparse, tmp_path / "m", compress=True, variances={"0.weight": torch.rand(24, 16)})


@pytest.mark.parametrize("name, shape", [("1.weight", (24, 16)), ("0.weight", (16, 24)), ("0.bias", (25,))])
def test_tensors_to_cut_are_of_the_net_as_it_was(name, shape):
    net, x, masks = half_and_half()
    with pytest.raises(ValueError, match="is not of the net as it was before compact"):
        compact(net, {}, masks, example=x).cut({name: torch.rand(shape)})


def test_a_plan_for_the_net_as_it_was_is_refused():
    net, x = NETS["lenet-300-100"]()
    masks = outputs(net, 0.5)
    plan = bp.plan(net, masks, example=x)
    with pytest.raises(ValueError, match="a plan is for the net as it was before compact"):
        bp.export(net, {}, masks, example=x, plan=plan, compact=True)
