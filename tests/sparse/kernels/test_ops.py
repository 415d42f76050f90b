"""The custom ops and the layer on them: gradients, compiler, export, copies, casts."""

import copy
import io
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.sparse import BSR, CSR
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.layers.linear import SparseLinear

pytestmark = pytest.mark.filterwarnings("ignore:.*the reference runs, and is slow")

FORMATS = [CSR(), BSR(4, 1), BSR(3, 5), BSR(4, 4)]


def layer(form, kernel="reference", dtype=torch.float64, keep=0.3):
    weight, mask = torch.randn(12, 20, dtype=dtype), torch.rand(12, 20) < keep
    return SparseLinear(form.pack(weight, mask), torch.randn(12, dtype=dtype), kernel), mask


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("lead", [(), (7,), (2, 3), (0,)])
def test_gradients_are_those_of_the_masked_dense(form, kernel, lead):
    sparse, _ = layer(form, kernel)
    dense = sparse.weight.detach().clone().requires_grad_()
    bias = sparse.bias.detach().clone().requires_grad_()
    x = torch.randn(*lead, 20, dtype=torch.float64, requires_grad=True)
    x2 = x.detach().clone().requires_grad_()
    grad = torch.randn(*lead, 12, dtype=torch.float64)
    sparse(x).backward(grad)
    F.linear(x2, dense, bias).backward(grad)
    at_places = form.pack(dense.grad, _stored(sparse)).values
    torch.testing.assert_close(x.grad, x2.grad)
    torch.testing.assert_close(sparse.values.grad, at_places)
    torch.testing.assert_close(sparse.bias.grad, bias.grad)


def _stored(sparse):
    """The entries that the layer stores, padding within the weight included."""
    ones = copy.deepcopy(sparse)
    nn.init.ones_(ones.values)
    return ones.weight.detach() != 0


def test_gradcheck():
    for form in FORMATS:
        sparse, _ = layer(form, "gather")
        x = torch.randn(3, 20, dtype=torch.float64, requires_grad=True)
        op = torch.ops.bayesprune.sparse_linear
        torch.autograd.gradcheck(
            lambda x, v, b, op=op, s=sparse: op(x, v, s.crow, s.col, b, None, 12, 20, str(s.format), "gather", ""),
            (x, sparse.values, sparse.bias),
            fast_mode=True,
        )


def test_gradients_only_where_asked():
    sparse, _ = layer(CSR())
    sparse.values.requires_grad_(False)
    x = torch.randn(3, 20, dtype=torch.float64, requires_grad=True)
    sparse(x).sum().backward()
    assert x.grad is not None and sparse.values.grad is None and sparse.bias.grad is not None


def test_a_gradient_op_by_itself_has_no_derivative():
    sparse, _ = layer(CSR())
    grad = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    index = sparse.values, sparse.crow, sparse.col
    into = torch.ops.bayesprune.sparse_linear_grad_x(grad, *index, None, 20, "CSR", "reference")
    with pytest.raises(NotImplementedError, match="differentiate the layer twice"):
        into.sum().backward()


def test_fine_tuning_trains_the_kept_entries_alone():
    sparse, mask = layer(CSR())
    x, y = torch.randn(64, 20, dtype=torch.float64), torch.randn(64, 12, dtype=torch.float64)
    optimizer = torch.optim.Adam(sparse.parameters(), lr=0.05)
    first = F.mse_loss(sparse(x), y).item()
    for _ in range(50):
        optimizer.zero_grad()
        loss = F.mse_loss(sparse(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7 * first
    assert not sparse.weight[~mask].any()


@pytest.mark.parametrize("form", [CSR(), BSR(4, 1)], ids=str)
@pytest.mark.parametrize("kernel", ["reference", "gather", "embedding_bag"])
def test_opcheck(form, kernel):
    sparse, _ = layer(form, kernel, torch.float32)
    x = torch.randn(3, 20, requires_grad=True)
    ops = torch.ops.bayesprune
    for bias in (sparse.bias, None):
        args = (x, sparse.values, sparse.crow, sparse.col, bias, None, 12, 20, str(form), kernel, "")
        torch.library.opcheck(ops.sparse_linear.default, args)
    grad, x, values = torch.randn(3, 12), x.detach(), sparse.values.detach()
    index = values, sparse.crow, sparse.col
    torch.library.opcheck(ops.sparse_linear_grad_x.default, (grad, *index, None, 20, str(form), kernel))
    torch.library.opcheck(ops.sparse_linear_grad_values.default, (grad, x, *index, str(form), kernel))


# Compiled in a process of its own: the checks of types and shapes that tests switch on are no part of a user's process.
COMPILE = """
import torch
from torch import nn
from bayesprune.sparse import BSR, CSR, export
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 8))
masks = {"0.weight": torch.rand(12, 20) < 0.3, "2.weight": torch.rand(8, 12) < 0.3}
x = torch.randn(5, 20)
import warnings; warnings.simplefilter("ignore")
sparse = export(net, {}, masks, example=x, formats={"0": BSR(4, 1), "2": CSR()})
compiled = torch.compile(sparse, fullgraph=True, backend="aot_eager", dynamic=True)
for tokens in (5, 7):
    x = torch.randn(tokens, 20)
    assert torch.equal(compiled(x), sparse(x))
compiled(x).sum().backward()
grads = [p.grad.clone() for p in sparse.parameters()]
sparse.zero_grad()
sparse(x).sum().backward()
assert all(torch.equal(a, p.grad) for a, p in zip(grads, sparse.parameters()))
batch = torch.export.Dim("batch")
program = torch.export.export(sparse, (torch.randn(5, 20),), dynamic_shapes=({0: batch},))
import io
file = io.BytesIO()
torch.export.save(program, file); file.seek(0)
assert torch.equal(torch.export.load(file).module()(x), sparse(x))
print("fine")
"""


def test_compile_and_export():
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "fine", done.stderr


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_copies_and_state_dict(form):
    sparse, _ = layer(form)
    x = torch.randn(3, 20, dtype=torch.float64)
    again = copy.deepcopy(sparse)
    file = io.BytesIO()
    torch.save(sparse, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(again(x), sparse(x)) and torch.equal(loaded(x), sparse(x))
    assert list(sparse.state_dict()) == ["values", "bias", "crow", "col"]
    nn.init.zeros_(again.values)
    again.load_state_dict(sparse.state_dict())
    assert torch.equal(again(x), sparse(x))
    meta = sparse.to("meta")
    assert meta(torch.empty(3, 20, dtype=torch.float64, device="meta")).shape == (3, 12)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_casts_change_values_and_bias_but_no_index(form, kernel):
    sparse, _ = layer(form, kernel, torch.float32)
    x = torch.randn(3, 20)
    want = sparse(x)
    for cast, dtype in (
        (sparse.bfloat16, torch.bfloat16),
        (sparse.half, torch.float16),
        (sparse.double, torch.float64),
    ):
        cast()
        assert sparse.values.dtype == sparse.bias.dtype == dtype
        assert sparse.crow.dtype == sparse.col.dtype == torch.int32
        torch.testing.assert_close(sparse(x.to(dtype)).float(), want, atol=0.1, rtol=0.05)


def test_a_state_dict_that_points_outside_is_refused():
    sparse, _ = layer(CSR())
    state = sparse.state_dict()
    state["col"] = state["col"] + 100
    with pytest.raises(RuntimeError, match=r"col must lie in \[0, 20\)"):
        sparse.load_state_dict(state)
    assert int(sparse.col.max()) < 20


def test_autocast_computes_in_the_values_dtype():
    for form in FORMATS:
        for kernel in KERNELS:
            sparse, _ = layer(form, kernel, torch.float32)
            x = torch.randn(3, 20)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                got = sparse(x.bfloat16())
                got.sum().backward()
            assert got.dtype == torch.float32
            torch.testing.assert_close(got, sparse(x.bfloat16().float()))


def test_bad_input_says_what_was_expected():
    sparse, _ = layer(CSR(), dtype=torch.float32)
    with pytest.raises(ValueError, match=r"20 features in its last dimension, got shape \(3, 21\)"):
        sparse(torch.randn(3, 21))
    with pytest.raises(ValueError, match=r"20 features .* got shape \(\)"):
        sparse(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"expected x in torch.float32"):
        sparse(torch.randn(3, 20, dtype=torch.float64))
    sparse.kernel = "nonesuch"
    with pytest.raises(ValueError, match="no kernel is called 'nonesuch'; there are reference"):
        sparse(torch.randn(3, 20))


def test_weight_is_a_dense_copy_with_gradients():
    sparse, mask = layer(BSR(4, 4))
    sparse.weight.sum().backward()
    assert sparse.weight.shape == (12, 20) and sparse.values.grad is not None
    assert torch.equal(sparse.weight != 0, mask)
