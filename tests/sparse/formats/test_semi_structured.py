"""Two of four inputs: packing, products, gradients, files, and what is refused."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bayesprune as bp
from bayesprune.sparse import SemiStructured, SparseLinear, SparseWeight
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.kernels.cusparselt import _Compressed

pytestmark = pytest.mark.filterwarnings("ignore:.*the reference runs, and is slow")

FORM = SemiStructured()


def two_of_four(out, into):
    return (
        torch.zeros(out, into // 4, 4).scatter(2, torch.rand(out, into // 4, 4).argsort(2)[..., :2], 1).view(out, into)
        > 0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("out", "into"), [(1, 4), (3, 20), (16, 64), (5, 0), (0, 8)])
def test_packing_is_exact(out, into, dtype):
    weight, mask = torch.randn(out, into, dtype=dtype), two_of_four(out, into)
    packed = FORM.pack(weight, mask)
    FORM.check(packed)
    assert torch.equal(packed.dense(), torch.where(mask, weight, 0))
    assert packed.values.shape == (out, into // 2) and packed.values.dtype == dtype
    assert packed.nbytes == FORM.nbytes(mask, weight.itemsize)


def test_every_way_to_keep_at_most_two_of_four():
    patterns = [p for p in itertools.product((False, True), repeat=4) if sum(p) < 3]
    mask = torch.tensor(list(itertools.product(patterns, repeat=2))).flatten(1)  # 121 rows of eight inputs
    weight = torch.randn(mask.shape)
    packed = FORM.pack(weight, mask)
    FORM.check(packed)
    assert torch.equal(packed.dense(), torch.where(mask, weight, 0))


def test_places_lie_two_bits_each_from_the_lowest_on():
    mask = torch.tensor([[False, True, True, False] + [True, False, False, True] * 7 + [False, False, True, True] * 2])
    packed = FORM.pack(torch.ones(1, 40), mask)
    places = [1, 2] + [0, 3] * 7 + [2, 3] * 2
    words = [sum(p << 2 * k for k, p in enumerate(places[i : i + 16])) for i in (0, 16)]
    assert [word % 2**32 for word in packed.col.tolist()] == words and packed.col.tolist()[0] < 0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("lead", [(), (7,), (2, 3), (0,)])
def test_product_and_gradients_are_those_of_the_masked_dense(kernel, lead):
    weight, mask = torch.randn(12, 20, dtype=torch.float64), two_of_four(12, 20)
    layer = SparseLinear(FORM.pack(weight, mask), torch.randn(12, dtype=torch.float64), kernel, "gelu")
    dense = torch.where(mask, weight, 0).requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()
    x = torch.randn(*lead, 20, dtype=torch.float64, requires_grad=True)
    x2 = x.detach().clone().requires_grad_()
    y, y2 = layer(x), F.gelu(F.linear(x2, dense, bias))
    torch.testing.assert_close(y, y2)
    grad = torch.randn_like(y)
    y.backward(grad)
    y2.backward(grad)
    torch.testing.assert_close(x.grad, x2.grad)
    torch.testing.assert_close(layer.values.grad, FORM.pack(dense.grad, mask).values)
    torch.testing.assert_close(layer.bias.grad, bias.grad)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), y)


def test_opcheck():
    packed = FORM.pack(torch.randn(12, 20), two_of_four(12, 20))
    values, index = packed.values.requires_grad_(), (packed.crow, packed.col)
    x, bias = torch.randn(3, 20, requires_grad=True), torch.randn(12, requires_grad=True)
    ops = torch.ops.bayesprune
    arguments = (x, values, *index, bias, None, 12, 20, "SemiStructured", "reference", "relu")
    torch.library.opcheck(ops.sparse_linear.default, arguments)
    x, values, grad = x.detach(), values.detach(), torch.randn(3, 12)
    named = "SemiStructured", "reference"
    torch.library.opcheck(ops.sparse_linear_grad_x.default, (grad, values, *index, None, 20, *named))
    torch.library.opcheck(ops.sparse_linear_grad_values.default, (grad, x, values, *index, *named))


@pytest.fixture(scope="module")
def exported():
    net = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 12))
    net[1].running_mean.normal_()
    masks = {"0.weight": two_of_four(48, 64), "3.weight": torch.rand(12, 48) < 0.3}
    x = torch.randn(5, 64)
    dense = copy.deepcopy(net).eval()
    with torch.no_grad():
        for name, mask in masks.items():
            dense.get_parameter(name).mul_(mask)
    with pytest.warns(UserWarning, match=r"SemiStructured was asked for and is slower|no weight that it matches"):
        sparse = bp.export(net, {}, masks, example=x, formats={"0": FORM, "3": bp.Dense()}, cached=False)
    return sparse, dense, x


def test_an_exported_net(exported):
    sparse, dense, x = exported
    assert sparse[0].format == FORM and isinstance(sparse[1], nn.Identity)  # the normalisation is worked into it
    torch.testing.assert_close(sparse(x), dense(x))


def test_copies_casts_and_files(exported, tmp_path):
    sparse, _, x = exported
    again = copy.deepcopy(sparse)
    nn.init.zeros_(again[0].values)
    again.load_state_dict(sparse.state_dict())
    assert torch.equal(again(x), sparse(x))
    assert again.double()[0].col.dtype == torch.int32
    torch.testing.assert_close(again(x.double()).float(), sparse(x))
    bp.save(sparse, tmp_path / "net.safetensors")
    loaded = bp.load(tmp_path / "net.safetensors")
    assert loaded[0].format == FORM and torch.equal(loaded(x), sparse(x))
    bp.save(sparse, tmp_path / "coded.safetensors", compress=True)
    coded = bp.load(tmp_path / "coded.safetensors")
    assert torch.equal(coded[0].col, sparse[0].col) and torch.equal(coded[0].weight != 0, sparse[0].weight != 0)
    assert copy.deepcopy(sparse).to("meta")(x.to("meta")).shape == (5, 12)


def test_torch_export(exported):
    sparse, _, x = exported
    batch = torch.export.Dim("batch")
    program = torch.export.export(sparse, (x,), dynamic_shapes=({0: batch},))
    assert torch.equal(program.module()(x[:3]), sparse(x[:3]))


def test_a_plan_on_the_cpu_does_not_offer_it():
    net, masks = nn.Linear(64, 48), {"weight": two_of_four(48, 64)}
    choice = bp.plan(net, masks, example=torch.randn(5, 64), cached=False)["weight"]
    assert choice.seconds and not any("SemiStructured" in label for label in choice.seconds)


@pytest.mark.parametrize(
    ("layer", "mask", "message"),
    [
        (nn.Linear(6, 4), torch.eye(4, 6) > 0, "SemiStructured needs a number of inputs that 4 divides, got 6"),
        (nn.Linear(8, 4), torch.arange(32).view(4, 8) % 4 > 0, "at most 2 of every 4 inputs .* the mask keeps 3"),
    ],
)
def test_masks_that_it_cannot_hold(layer, mask, message):
    with pytest.raises(ValueError, match=message):
        FORM.pack(layer.weight.detach(), mask)
    x = torch.randn(3, layer.in_features)
    with pytest.warns(
        UserWarning, match=f"no weight that it matches can run as SemiStructured: masked dense: .*{message}"
    ):
        plan = bp.plan(layer, {"weight": mask}, example=x, formats={"*": FORM}, cached=False)
    assert plan["weight"].format == bp.Dense()


def test_convolutions_stay_dense():
    mask = torch.zeros(8, 8, 3, 3, dtype=torch.bool)
    mask[:, ::4] = True
    x = torch.randn(1, 8, 5, 5)
    with pytest.warns(UserWarning, match="Conv2d has no sparse kernel for SemiStructured"):
        plan = bp.plan(nn.Conv2d(8, 8, 3), {"weight": mask}, example=x, formats={"*": FORM}, cached=False)
    assert plan["weight"].format == bp.Dense()


def test_a_mask_that_keeps_nothing():
    net, mask = nn.Linear(8, 4), torch.zeros(4, 8, dtype=torch.bool)
    x = torch.randn(3, 8)
    with pytest.warns(UserWarning):
        sparse = bp.export(net, {}, {"weight": mask}, example=x, formats={"*": FORM}, cached=False)
    torch.testing.assert_close(sparse(x), net.bias.expand(3, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": torch.ones(4, 3)}, r"needs floating-point values \(out, in / 2\)"),
        ({"values": torch.ones(4, 4, dtype=torch.int8)}, "got torch.int8"),
        ({"shape": (4, 6)}, "in fours of inputs"),
        ({"col": torch.zeros(2, dtype=torch.int32)}, "1 places of int32 in col"),
        ({"col": torch.zeros(1, dtype=torch.int32)}, "the two places of every four inputs must rise"),
        ({"crow": torch.zeros(1, dtype=torch.int32)}, "an empty crow"),
        ({"scale": torch.ones(4)}, "has no scale"),
    ],
)
def test_damaged_buffers_are_refused(changes, message):
    packed = FORM.pack(torch.ones(4, 8), two_of_four(4, 8))
    with pytest.raises(ValueError, match=message):
        FORM.check(SparseWeight(**{**vars(packed), **changes}))


def test_to_torch_needs_a_gpu():
    with pytest.raises(ValueError, match="needs a CUDA GPU"):
        FORM.pack(torch.ones(4, 8), two_of_four(4, 8)).to_torch()


def test_the_compressed_weight_is_kept_while_it_holds(monkeypatch):
    """What cuSPARSELt would be given, counted: once for each state of the values, and gone with them."""
    made = []
    monkeypatch.setattr(torch, "_cslt_compress", lambda dense: made.append(dense.clone()) or dense.clone())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: type("", (), {"synchronize": lambda self: None})())
    packed = FORM.pack(torch.randn(4, 8), two_of_four(4, 8))
    layer, kept = SparseLinear(packed, None), _Compressed()

    def get():
        return kept.of(layer.sparse_weight.operands())

    first = get()
    assert get() is first and torch.equal(first, packed.dense()) and len(made) == 1
    with torch.no_grad():
        layer.values.mul_(2)
    assert torch.equal(get(), layer.weight) and len(made) == 2
    layer.load_state_dict({name: torch.clone(t) for name, t in layer.state_dict().items()})
    get()
    assert len(made) == 3
    layer.col.copy_(layer.col.clone())
    get()
    assert len(made) == 4 and get() is get()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    layer.double()  # other memory
    get(), get()
    assert len(made) == 6  # what a graph makes lives in the graph
    del layer, packed
    assert len(kept._kept) == 0
