"""Our own kernel against float64 dense: blocks, dtypes, ragged edges, threads, instruction sets."""

import copy
import dataclasses
import os
import subprocess
import sys
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bayesprune.sparse import BSR, CSR, export, load, save
from bayesprune.sparse.activations import ACTIVATIONS
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.layers.linear import SparseLinear

pytest.importorskip("llvmlite")

from bayesprune.sparse.native.compiled import assembly, cache_folder
from bayesprune.sparse.native.host import NEON, host_isa
from bayesprune.sparse.native.linear import linear_ir
from bayesprune.sparse.native.spec import Spec

# what a sum over |w| |x| may be off by; float16 and bfloat16 are rounded once, when they are written
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}

# name -> (outputs, inputs, format)
WEIGHTS = {
    "square": (64, 64, BSR(16, 16)),
    "tall column": (50, 70, BSR(16, 1)),
    "wide": (96, 96, BSR(32, 32)),
    "very tall": (130, 64, BSR(128, 4)),
    "narrow": (40, 40, BSR(4, 4)),
    "odd": (37, 30, BSR(3, 2)),
    "half a vector": (24, 50, BSR(8, 1)),
    "few outputs": (10, 300, BSR(16, 16)),
    "unstructured": (33, 41, CSR()),
}


def layer(out, into, form, dtype, inputs=None, keep=0.4, activation=""):
    """A packed layer, its float64 weight and bias, with some block rows empty."""
    torch.manual_seed(0)
    h, w = (form.h, form.w) if isinstance(form, BSR) else (1, 1)
    grid = torch.rand(-(-out // h), -(-into // w)) < keep
    grid[:1] = False
    mask = grid.repeat_interleave(h, 0).repeat_interleave(w, 1)[:out, :into]
    packed = form.pack(torch.randn(out, into).to(dtype), mask)
    bias = torch.randn(out).to(inputs or dtype)
    made = SparseLinear(packed, bias, "native", activation)
    return made, packed.dense().double(), bias.double()


def worst(made, weight, bias, x):
    """The largest error relative to Σ |w| |x| + |b|."""
    expected = ACTIVATIONS[made.activation](F.linear(x.double(), weight, bias))
    with torch.no_grad():
        found = made(x)
    assert found.dtype == x.dtype and found.shape == expected.shape
    size = F.linear(x.double().abs(), weight.abs(), bias.abs())
    return float(((found.double() - expected).abs() / size.clamp_min(1e-9)).max()) if found.numel() else 0.0


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", WEIGHTS)
def test_products_are_those_of_the_masked_dense(name, dtype):
    made, weight, bias = layer(*WEIGHTS[name], dtype)
    for tokens in (1, 5, 33):
        x = torch.randn(tokens, weight.shape[1]).to(dtype)
        assert worst(made, weight, bias, x) < TOLERANCE[dtype], tokens


@pytest.mark.parametrize("inputs", TOLERANCE)
@pytest.mark.parametrize("form", [BSR(16, 4, bits=8), BSR(3, 2, bits=8), CSR(bits=8)], ids=str)
def test_eight_bits_are_the_integers_times_their_scales(form, inputs):
    made, weight, bias = layer(50, 44, form, torch.float32, inputs)
    assert made.values.dtype == torch.int8
    for tokens in (1, 20):
        x = torch.randn(tokens, 44).to(inputs)
        assert worst(made, weight, bias, x) < TOLERANCE[inputs]


def test_eight_bits_round_to_the_nearest():
    weight = torch.randn(20, 30)
    packed = BSR(4, 2, bits=8).pack(weight, torch.ones(20, 30, dtype=torch.bool))
    step = weight.abs().amax(1, keepdim=True) / 127
    assert bool(((packed.dense() - weight).abs() <= 0.5001 * step).all())
    assert packed.nbytes == BSR(4, 2, bits=8).nbytes(torch.ones(20, 30, dtype=torch.bool), 4)


@pytest.mark.parametrize("activation", list(filter(None, ACTIVATIONS)))
@pytest.mark.parametrize("form", [BSR(16, 2), BSR(4, 1)], ids=str)
def test_activations_are_torchs(form, activation):
    made, weight, bias = layer(40, 24, form, torch.float32, activation=activation)
    x = torch.cat([torch.randn(30, 24), 20 * torch.randn(10, 24)])
    assert worst(made, weight, bias, x) < 2e-6
    plain = copy.deepcopy(made)
    plain.kernel = "reference"
    one, two = (x.clone().requires_grad_() for _ in range(2))
    made(one).square().sum().backward()
    plain(two).square().sum().backward()
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(made.values.grad, plain.values.grad, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(made.bias.grad, plain.bias.grad, rtol=1e-4, atol=1e-2)


def test_nan_and_infinity_pass_as_in_torch():
    packed = BSR(16, 16).pack(torch.ones(16, 16), torch.ones(16, 16, dtype=torch.bool))
    made = SparseLinear(packed, None, "native", "relu")
    x = torch.zeros(3, 16)
    x[0, 3], x[1, 4] = float("nan"), float("inf")
    found = made(x)
    assert bool(found[0].isnan().all()) and bool((found[1] == float("inf")).all()) and not bool(found[2].any())


@settings(max_examples=25, deadline=None)
@given(
    out=st.integers(1, 70),
    into=st.integers(1, 70),
    form=st.sampled_from([BSR(16, 1), BSR(8, 8), BSR(4, 1), CSR()]),
    lead=st.sampled_from([(), (0,), (2, 3), (2, 1, 2), (9,)]),
    keep=st.sampled_from([0.0, 0.3, 1.0]),
    strided=st.booleans(),
)
def test_any_shape_any_batch(out, into, form, lead, keep, strided):
    made, weight, bias = layer(out, into, form, torch.float32, keep=keep)
    x = torch.randn(*lead, into, 2)[..., 0] if strided else torch.randn(*lead, into)
    assert worst(made, weight, bias, x) < 1e-6


def test_threads_agree_to_the_bit():
    made, _, _ = layer(300, 200, BSR(16, 2), torch.float32)
    x, one = torch.randn(90, 200), None
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            with torch.no_grad():
                found = made(x)
            assert one is None or torch.equal(found, one)
            one = found
    finally:
        torch.set_num_threads(before)


def test_two_python_threads_at_once():
    made, weight, bias = layer(200, 150, BSR(16, 1), torch.float32)
    errors = []

    def work(seed):
        x = torch.randn(40, 150, generator=torch.Generator().manual_seed(seed))
        errors.extend(worst(made, weight, bias, x) for _ in range(50))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 200 and max(errors) < 1e-6


def run(code, **env):
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


NARROW = """
import sys, torch
from bayesprune.sparse import BSR, CSR
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.native.host import host_isa
torch.manual_seed(0)
forms = ((BSR(16, 4), 50, 40), (BSR(16, 16), 64, 64), (BSR(4, 1), 30, 40), (CSR(), 30, 41), (BSR(8, 2, 8), 30, 40))
dtypes = ((torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3))
for dtype, near in dtypes:
    for form, out, into in forms if dtype == torch.float32 else forms[1:4:2]:
        packed = form.pack(torch.randn(out, into).to(dtype), torch.rand(out, into) < 0.3)
        made = SparseLinear(packed, torch.randn(out).to(dtype), "native", "gelu")
        for tokens in (1, 20):
            x = torch.randn(tokens, into).to(dtype)
            found = made(x).detach()
            dense = torch.nn.functional.linear(x.double(), packed.dense().double(), made.bias.double())
            wanted = torch.nn.functional.gelu(dense)
            torch.testing.assert_close(found.double(), wanted.detach(), rtol=near, atol=near * 5)
any_bits = torch.randint(-(2**15), 2**15, (5000, 2), dtype=torch.int16).view(torch.bfloat16)  # NaN and infinity too
summed = SparseLinear(CSR().pack(torch.ones(1, 2).bfloat16(), torch.ones(1, 2, dtype=torch.bool)), None, "native")
rounded = any_bits.float().sum(1, keepdim=True).bfloat16()
torch.testing.assert_close(summed(any_bits).detach(), rounded, rtol=0, atol=0, equal_nan=True)
print(host_isa().name, "pyro" in sys.modules)
"""


@pytest.mark.skipif(host_isa().name != "avx512", reason="the processor has no AVX-512 to hold back")
def test_the_avx2_path_gives_the_same():
    assert run(NARROW, BAYESPRUNE_ISA="avx2").split() == ["avx2", "False"]


def test_code_is_kept_on_disk_and_made_anew_where_it_is_damaged(tmp_path):
    env = {"BAYESPRUNE_CACHE": str(tmp_path)}
    code = NARROW.replace("in forms", "in forms[:1]").replace("in dtypes", "in dtypes[:1]")  # one is enough
    run(code, **env)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "kernels").iterdir()}
    assert files
    run(code, **env)
    assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "kernels").iterdir()}
    for path in files:
        path.write_bytes(path.read_bytes()[:100])
    run(code, **env)
    assert all(p.stat().st_size > 100 for p in files)
    run(code, BAYESPRUNE_CACHE="/dev/null/nowhere")
    assert cache_folder().name == "kernels"


def test_neon_code_is_made_though_not_run():
    spec = Spec(NEON, 16, 4, "f32", "f32", 6, 4, "outputs", 0, True, "relu")
    text = assembly(linear_ir(spec), NEON)
    assert text.count("fmla\tv") > 16 * 4 * 6 / 4
    assert "ldaddal" in text or "ldxr" in text or "ldadd" in text or "__aarch64_ldadd" in text


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("BAYESPRUNE_ISA", "sse9")
    with pytest.raises(ValueError, match="BAYESPRUNE_ISA may be avx2 or unset, got 'sse9'"):
        host_isa()


def test_an_activation_next_to_a_packed_layer_is_fused_and_survives_the_file(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    masks = {
        "0.weight": (torch.rand(4, 64) < 0.3).repeat_interleave(16, 0),
        "2.weight": (torch.rand(2, 64) < 0.3).repeat_interleave(16, 0),
    }
    x = torch.randn(7, 64)
    formats = {"0": BSR(16, 1), "2": BSR(16, 1, bits=8)}
    with warnings.catch_warnings():  # slower than dense, at this size
        warnings.simplefilter("ignore")
        sparse = export(net, {}, masks, example=x, formats=formats)
    kinds = [type(m).__name__ for m in sparse]
    fused = [m.activation for m in sparse if isinstance(m, SparseLinear) and m.kernel == "native"]
    assert [kinds[i] for i in (1, 3)].count("Identity") == len(fused) and all(fused)
    save(sparse, tmp_path / "a.safetensors")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "a.safetensors")(x), sparse(x))
        assert torch.equal(load(tmp_path / "a.safetensors", net=net)(x), sparse(x))


class Halves(nn.Module):
    """Reads the layers of its Sequential one by one."""

    def __init__(self):
        super().__init__()
        self.seq = nn.Sequential(nn.Linear(32, 32), nn.ReLU())

    def forward(self, x):
        return self.seq[0](x) - self.seq(x)


def test_a_net_that_reads_its_layers_one_by_one_is_left_as_it_is():
    torch.manual_seed(0)
    net = Halves().eval()
    masks = {"seq.0.weight": (torch.rand(2, 32) < 0.5).repeat_interleave(16, 0)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = export(net, {}, masks, example=torch.randn(5, 32), formats={"*": BSR(16, 1)})
    assert isinstance(sparse.seq[1], nn.ReLU)
    assert sparse.seq[0].activation == ""


def test_copies_casts_and_state_dicts():
    made, _, _ = layer(40, 32, BSR(16, 2), torch.float32)
    x = torch.randn(5, 32)
    expected = made(x).detach()
    assert torch.equal(copy.deepcopy(made)(x).detach(), expected)
    half = copy.deepcopy(made).to(torch.bfloat16)
    torch.testing.assert_close(half(x.bfloat16()).float(), expected, rtol=0.1, atol=0.1)
    fresh, _, _ = layer(40, 32, BSR(16, 2), torch.float32)
    nn.init.zeros_(fresh.values)
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(fresh(x).detach(), expected)


def test_the_table_of_kernels_has_it():
    packed = BSR(4, 4).pack(torch.zeros(4, 4), torch.ones(4, 4, dtype=torch.bool))
    assert KERNELS["native"].takes(packed, torch.bfloat16)
    assert not KERNELS["native"].takes(dataclasses.replace(packed, values=packed.values.double()), torch.float64)
