"""Integers of 8 and 4 bits: what they hold, how they are chosen by a posterior, in memory and on disk."""

import json
from dataclasses import replace

import pytest
import safetensors
import torch
import torch.nn.functional as F
from torch import nn

import bayesprune as bp
from bayesprune.patterns import Block
from bayesprune.sparse import BSR, CSR, Dense, export, load, plan, save
from bayesprune.sparse.formats.quantised import held_in, precision, quantise
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.saving.storage import Stored, restore, store

FORMS = [BSR(16, 1, bits=4), BSR(3, 5, bits=4), BSR(4, 4, bits=4), CSR(bits=4)]
pytestmark = pytest.mark.filterwarnings("ignore:.* was asked for and is slower than dense")
every_form = pytest.mark.parametrize("form", FORMS, ids=str)


def weight_and_mask(out=37, into=29, keep=0.4):
    return torch.randn(out, into), torch.rand(out, into) < keep


@every_form
def test_four_bits_round_to_the_nearest_of_fifteen(form):
    weight, mask = weight_and_mask()
    packed = form.pack(weight, mask)
    kept = torch.where(mask, weight, 0)
    assert packed.values.dtype == torch.int8 and int(packed.values.abs().max()) == 7
    step = kept.abs().amax(1, keepdim=True) / 7
    assert bool(((packed.dense() - kept).abs() <= 0.5001 * step).all())
    assert packed.nbytes == form.nbytes(mask, 4) == replace(form, bits=8).nbytes(mask, 4)
    assert f"{form}".endswith("bits=4)")


@every_form
@pytest.mark.parametrize("kernel", ["native", "reference"])
@pytest.mark.parametrize("tokens", [1, 20, 40])
def test_products_of_four_bits(form, kernel, tokens):
    weight, mask = weight_and_mask()
    packed, bias, x = form.pack(weight, mask), torch.randn(37), torch.randn(tokens, 29)
    layer = SparseLinear(packed, bias, kernel, "relu").eval()
    with torch.no_grad():
        found = layer(x)
    expected = F.relu(F.linear(x.double(), packed.dense().double(), bias.double()))
    assert torch.allclose(found.double(), expected, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_convolutions(bits):
    net = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 1))
    masks = {n: torch.rand_like(p) < 0.5 for n, p in net.named_parameters() if p.dim() > 1}
    x, variances = torch.randn(2, 8, 6, 6), {n: torch.rand_like(net.get_parameter(n)) for n in masks}
    exported = export(net, {}, masks, example=x, formats={"*": BSR(4, 2, bits=bits)}, variances=variances)
    with torch.no_grad():
        expected = F.conv2d(x, exported[0].weight, net[0].bias, padding=1).relu()
        expected = F.conv2d(expected, exported[2].weight, net[2].bias)
        assert torch.allclose(exported(x), expected, atol=1e-5)


# --- by the posterior -----------------------------------------------------------------------------------------------


def cost(weight, counts, integers, scale):
    return (counts * (weight - integers * scale[:, None]).square()).sum(1)


@pytest.mark.parametrize("bits", [4, 8])
def test_scales_are_as_good_as_those_of_a_fine_search(bits):
    weight = torch.randn(40, 30).double()
    counts = 1 / (torch.rand(40, 30).double() ** 4 + 1e-3)
    found = cost(weight, counts, *quantise(weight, bits, counts))
    assert bool((found <= cost(weight, counts, *quantise(weight, bits)) * (1 + 1e-6)).all())
    most, best = 2 ** (bits - 1) - 1, torch.full((40,), torch.inf).double()
    for share in torch.linspace(0.05, 1.2, 2000).double():
        scale = share * weight.abs().amax(1) / most
        integers = (weight / scale[:, None]).round().clamp(-most, most)
        best = torch.minimum(best, cost(weight, counts, integers, scale))
    assert float(found.sum()) <= (1.2 if bits == 4 else 2) * float(best.sum())


def test_a_weight_of_which_little_is_known_is_cut_off_for_those_of_which_much_is():
    weight = torch.cat([torch.tensor([10.0]), torch.rand(60) - 0.5])[None]
    mask, variance = torch.ones(1, 61, dtype=torch.bool), torch.full((1, 61), 1e-4)
    variance[0, 0] = 100
    plain, known = (CSR(bits=4).pack(weight, mask, v).dense() for v in (None, variance))
    assert float(plain[0, 0]) == pytest.approx(10) and float(known[0, 0]) < 8
    assert float((known - weight)[0, 1:].norm()) < float((plain - weight)[0, 1:].norm())


def test_precision_is_the_inverse_of_a_variance_and_the_mean_of_all():
    variance, mask = torch.rand(6, 5), torch.rand(6, 5) < 0.6
    found = precision(variance, mask)
    mean = variance[mask].mean()
    assert torch.allclose(found[mask], 1 / (variance[mask] + mean)) and not bool(found[~mask].any())
    assert precision(None, mask) is None
    assert precision(variance.bfloat16(), mask).dtype == torch.float32
    assert torch.equal(precision(torch.zeros(6, 5), mask), mask.float())
    assert torch.equal(precision(torch.full((6, 5), torch.inf), mask), torch.zeros(6, 5))


@every_form
def test_packing_in_parts_changes_nothing(form, monkeypatch):
    weight, mask = weight_and_mask()
    variance = torch.rand_like(weight)
    whole = form.pack(weight, mask, variance)
    monkeypatch.setattr("bayesprune.sparse.formats.base._CHUNK", 64)
    parts = form.pack(weight, mask, variance)
    assert torch.equal(whole.values, parts.values) and torch.equal(whole.scale, parts.scale)


@pytest.mark.parametrize("form", [BSR(4, 2), CSR(), Dense()], ids=str)
def test_what_is_not_rounded_takes_no_notice_of_a_variance(form):
    weight, mask = weight_and_mask()
    assert torch.equal(form.pack(weight, mask, torch.rand_like(weight)).dense(), form.pack(weight, mask).dense())


# --- export ---------------------------------------------------------------------------------------------------------


def net_and_masks():
    net = nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    masks = {}
    for name in ("0.weight", "2.weight"):
        shape = net.get_parameter(name).shape
        masks[name] = (torch.rand(shape[0] // 16, shape[1]) < 0.1).repeat_interleave(16, 0)
    return net, masks | {"4.weight": torch.rand(10, 64) < 0.1}


@pytest.mark.parametrize(
    ("bits", "first", "second"),
    [(8, 8, 8), (4, 4, 4), ({"0.weight": 3, "2.weight": 7}, 4, 8), ({"0.weight": 11, "2.weight": 1}, None, 4)],
)
def test_bits_for_all_or_by_weight(bits, first, second):
    net, masks = net_and_masks()
    choices = plan(net, masks, example=torch.randn(8, 256), bits=bits).choices
    wanted = {"0.weight": first, "2.weight": second, "4.weight": bits if bits in (4, 8) else None}
    for name, width in wanted.items():
        tried = [label for label in choices[name].seconds if label != "dense"]
        assert tried and all((f"bits={width}" in label) if width else ("bits" not in label) for label in tried)


def test_formats_go_before_bits():
    net, masks = net_and_masks()
    formats = {"0": BSR(8, 1, bits=4), "4": CSR()}
    found = export(net, {}, masks, example=torch.randn(8, 256), formats=formats, bits=8)
    assert found[0].format == BSR(8, 1, bits=4) and found[4].format == CSR()


def test_variances_reach_the_packed_weights():
    net, masks = net_and_masks()
    variances = {"0.weight": torch.rand(128, 256) ** 4}
    form = BSR(16, 1, bits=4)
    found = export(net, {}, masks, example=torch.randn(8, 256), formats={"*": form}, variances=variances)
    for at, name in ((0, "0.weight"), (2, "2.weight")):
        expected = form.pack(net[at].weight.detach(), masks[name], variances.get(name))
        assert torch.equal(found[at].values, expected.values) and torch.equal(found[at].scale, expected.scale)


def test_they_are_cut_with_a_net_that_is_made_smaller():
    net, masks = net_and_masks()
    masks = {"0.weight": masks["0.weight"]}
    masks["0.weight"][:64] = False
    variances = {name: torch.rand_like(net.get_parameter(name)) ** 4 for name in masks}
    form = BSR(16, 1, bits=4)
    found = export(net, {}, masks, example=torch.randn(8, 256), formats={"0": form}, variances=variances, compact=True)
    expected = form.pack(net[0].weight.detach()[64:], masks["0.weight"][64:], variances["0.weight"][64:])
    assert torch.equal(found[0].values, expected.values) and torch.equal(found[0].scale, expected.scale)


def test_those_of_an_opened_module_are_cut_as_its_weight_is():
    net = nn.MultiheadAttention(32, 4, batch_first=True)
    masks = {"in_proj_weight": torch.rand(96, 32) < 0.3}
    variances = {"in_proj_weight": torch.rand(96, 32) ** 4}
    x = torch.randn(2, 5, 32)
    given = {"query": x, "key": torch.randn(2, 5, 32), "value": torch.randn(2, 5, 32)}
    form = CSR(bits=4)
    found = export(net, {}, masks, example=given, formats={"*": form}, variances=variances)
    layers = [m for m in found.modules() if isinstance(m, SparseLinear)]
    scales = torch.cat([layer.scale for layer in layers])
    whole = [
        (w, m, v)
        for w, m, v in zip(
            net.in_proj_weight.detach().split(32),
            masks["in_proj_weight"].split(32),
            variances["in_proj_weight"].split(32),
            strict=True,
        )
    ]
    assert len(layers) == 3 and torch.equal(scales, torch.cat([form.pack(*part).scale for part in whole]))


def test_from_the_posterior_to_the_packed_net():
    net = nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 4))
    bnet = bp.BayesianNet(net, {"*.weight": bp.GroupVD(Block(4, 1))})
    with torch.no_grad():
        for posterior in bnet.posteriors.values():
            for parameter in posterior.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    masks = bp.masks(bnet, keep=0.5)
    x = torch.randn(9, 40)
    exact = bp.export(net, bnet.means(), masks, example=x)
    given = {"bits": bp.bit_widths(bnet, masks), "variances": bnet.variances()}
    for options in (given, {**given, "bits": 8}):
        found = bp.export(net, bnet.means(), masks, example=x, **options)
        with torch.no_grad():
            assert float((found(x) - exact(x)).norm() / exact(x).norm()) < 0.3


def test_bad_input():
    net, masks = net_and_masks()
    x, good = torch.randn(8, 256), torch.rand(128, 256)
    for options, says in (
        ({"bits": 5}, "bits is 8 or 4"),
        ({"bits": {"1.weight": 8}}, "bits name '1.weight', which is no masked weight; they are 0.weight, 2.weight"),
        ({"bits": {"0.weight": 0}}, r"bits\['0.weight'\] is an integer ≥ 1, or None .*, got 0"),
        ({"bits": {"0.weight": True}}, r"bits\['0.weight'\] is an integer ≥ 1, or None .*, got True"),
        ({"variances": {"1.weight": good}}, "variances name '1.weight', which the net lacks"),
        ({"variances": {"0.weight": good.T}}, r"floating-point of shape \(128, 256\), got torch.float32 of shape"),
        ({"variances": {"0.weight": good - 2}}, "holds a negative number or NaN"),
        ({"variances": {"0.weight": good * torch.nan}}, "holds a negative number or NaN"),
        ({"plan": plan(net, masks, example=x), "bits": 8}, "the plan has its bits already"),
    ):
        with pytest.raises(ValueError, match=says):
            export(net, {}, masks, example=x, **options)
    weight, mask = weight_and_mask()
    for variance, says in (
        (torch.rand(3, 3), r"in the weight's shape \(37, 29\) and on cpu, got torch.float32 of shape \(3, 3\)"),
        (torch.ones(37, 29, dtype=torch.int64), "must be floating-point"),
        (torch.full((37, 29), -1.0), "at least 0, this one holds a negative number or NaN"),
    ):
        with pytest.raises(ValueError, match=says):
            CSR(bits=4).pack(weight, mask, variance)


def test_each_weight_is_held_in_the_fewest_bits_that_do():
    assert held_in(None, "ab") == {"a": None, "b": None} and held_in(4, "ab") == {"a": 4, "b": 4}
    widths = dict(zip("abcdefgh", [1, 2, 4, 5, 8, 9, 32, None], strict=True))
    assert list(held_in(widths, widths).values()) == [4, 4, 4, 8, 8, None, None, None]


# --- on disk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64,), (65,), (9, 4, 3)])
def test_two_integers_lie_in_a_byte(shape):
    x = torch.randint(-8, 8, shape, dtype=torch.int8)
    x.view(-1)[:2] = torch.tensor([-8, 7])
    stored = store(x)
    assert stored.how == "nibbles" and stored.nbytes == -(-x.numel() // 2)
    assert torch.equal(restore(stored), x)


@pytest.mark.parametrize("value", [8, -9, 127])
def test_larger_integers_take_a_byte(value):
    x = torch.zeros(64, dtype=torch.int8)
    x[5] = value
    assert store(x).how == "dense" and torch.equal(restore(store(x)), x)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parts": {"values": torch.zeros(33, dtype=torch.int8)}}, "65 int8 of four bits are half as many bytes"),
        ({"parts": {"values": torch.zeros(32, dtype=torch.uint8)}}, "65 int8 of four bits are half as many bytes"),
        ({"parts": {"values": torch.zeros(3, 11, dtype=torch.uint8)}}, "65 int8 of four bits are half as many bytes"),
        ({"parts": {"values": torch.full((33,), 16, dtype=torch.uint8)}}, "behind the last of an odd number"),
        ({"parts": {"bits": torch.zeros(33, dtype=torch.uint8)}}, "it needs the parts"),
        ({"dtype": "float32"}, "65 int8 of four bits are half as many bytes"),
        ({"dtype": "uint8"}, "65 int8 of four bits are half as many bytes"),
    ],
)
def test_forged_halves_are_refused(changes, says):
    stored = Stored("nibbles", "int8", (65,), None, {"values": torch.zeros(33, dtype=torch.uint8)})
    assert torch.equal(restore(stored), torch.zeros(65, dtype=torch.int8))
    with pytest.raises(ValueError, match=says):
        restore(replace(stored, **changes))


@pytest.mark.parametrize("compress", [False, True])
@every_form
def test_a_file_gives_the_net_back(form, compress, tmp_path):
    net, masks = net_and_masks()
    x = torch.randn(8, 256)
    four, eight = (
        export(net, {}, masks, example=x, formats={"*": replace(form, bits=bits)}, cached=True) for bits in (4, 8)
    )
    save(four, tmp_path / "four", compress=compress)
    save(eight, tmp_path / "eight", compress=compress)
    assert (tmp_path / "four").stat().st_size < (tmp_path / "eight").stat().st_size
    found = load(tmp_path / "four")
    assert found[0].format == replace(form, bits=4)
    with torch.no_grad():
        assert torch.equal(found[0].values, four[0].values)
        near = 2e-3 if compress else 0.0  # the biases are in 16 bits then
        assert torch.allclose(found(x), four(x), rtol=near, atol=near)
    if not compress:
        with safetensors.safe_open(tmp_path / "four", "pt") as file:
            assert file.get_tensor("0.values").numel() == -(-four[0].values.numel() // 2)
            told = json.loads(file.metadata()["bayesprune"])
        assert told["tensors"]["0.values"]["how"] == "nibbles"


@pytest.mark.parametrize("value", [8, -8, 100])
@every_form
def test_integers_that_four_bits_do_not_hold_are_refused(form, value):
    packed = form.pack(*weight_and_mask())
    packed.values.view(-1)[3] = value
    with pytest.raises(ValueError, match="4 bits are integers from −7 to 7, got"):
        form.check(packed)
    layer = SparseLinear(form.pack(*weight_and_mask()), None)
    with pytest.raises(RuntimeError, match="4 bits are integers from −7 to 7, got"):
        layer.load_state_dict({**layer.state_dict(), "values": torch.full_like(layer.values, value)})


def test_four_bits_are_integers_with_a_scale():
    packed = CSR(bits=4).pack(*weight_and_mask())
    for changes, says in (
        ({"values": packed.values.float()}, "4 bits are int8 values and a scale, got torch.float32"),
        ({"scale": None}, "4 bits are int8 values and a scale, got torch.int8 without one"),
        ({"scale": -packed.scale}, "finite numbers above 0"),
    ):
        with pytest.raises(ValueError, match=says):
            CSR(bits=4).check(replace(packed, **changes))
    with pytest.raises(ValueError, match="torch has no sparse tensor of 4 bits"):
        packed.to_torch()
