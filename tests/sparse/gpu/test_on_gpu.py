"""What has to hold on a real GPU, against float64 on the CPU.

Without a GPU the tests that need none of its own machinery run in Triton's interpreter: see ``test_interpreted.py``.
"""

import copy
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.sparse import BSR, CSR, Dense, Format, SemiStructured, SparseLinear
from bayesprune.sparse.activations import ACTIVATIONS
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.gpu.devices import interpreted
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.layers.conv import SparseConv2d

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore:.*the reference runs, and is slow")

ERRORS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # of the largest result
BLOCKS = [BSR(16, 1), BSR(16, 16), BSR(32, 64), BSR(64, 1), BSR(64, 64), BSR(128, 16), BSR(24, 5), BSR(16, 16, bits=8)]
OUT, IN = (256, 192) if torch.cuda.is_available() else (128, 96)  # the interpreter is slow
FORMS: list[Format] = [*BLOCKS, CSR(), SemiStructured()]
PAIRS: list[tuple[Format, str]] = [
    *((form, "triton") for form in BLOCKS),
    *((form, "torch_bsr") for form in (BSR(16, 16), BSR(32, 64), BSR(128, 16))),
    *((CSR(), "torch"), (SemiStructured(), "cusparselt"), (BSR(8, 3), "gather")),
    *((form, "reference") for form in (BSR(16, 16), CSR(), SemiStructured(), BSR(16, 16, bits=8))),
]


@pytest.fixture(autouse=True)
def the_same_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if interpreted():
        return torch.device("cpu")
    pytest.skip("there is no GPU")


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    return torch.device("cuda")


def mask_for(form: Format, out: int, into: int, keep: float = 0.2) -> Tensor:
    """A random mask that fills the format's blocks, the first of them empty."""
    if isinstance(form, SemiStructured):
        ranks = torch.rand(out, into // 4, 4).argsort(2)
        return torch.zeros(out, into // 4, 4).scatter(2, ranks[..., :2], 1).reshape(out, into) > 0
    h, w = (form.h, form.w) if isinstance(form, BSR) else (1, 1)
    grid = torch.rand(-(-out // h), -(-into // w)) < keep
    grid[0], grid[-1, 0] = False, True
    return grid.repeat_interleave(h, 0).repeat_interleave(w, 1)[:out, :into]


def layer_of(
    form: Format, dtype: torch.dtype, kernel: str, device: torch.device, *, activation: str = "", keep: float = 0.2
) -> SparseLinear:
    """A layer of OUT outputs and IN inputs on the device."""
    packed = form.pack(torch.randn(OUT, IN, dtype=dtype), mask_for(form, OUT, IN, keep))
    return SparseLinear(packed, torch.randn(OUT, dtype=dtype), kernel, activation).to(device)


def taken(layer: SparseLinear, dtype: torch.dtype) -> bool:
    return KERNELS[layer.kernel].takes(layer.sparse_weight, dtype)


def exact(layer: SparseLinear, x: Tensor) -> Tensor:
    """What the layer computes, in float64 on the CPU."""
    weight, bias = layer.weight.detach().cpu().double(), layer.bias.detach().cpu().double()
    return ACTIVATIONS[layer.activation](F.linear(x.detach().cpu().double(), weight, bias))


def assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.shape == expected.shape and found.dtype == dtype
    error = (found.detach().cpu().double() - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
    assert error <= ERRORS[dtype], f"an error of {error:.1e} of the largest result"


@pytest.mark.parametrize(("form", "kernel"), PAIRS, ids=str)
@pytest.mark.parametrize("dtype", ERRORS, ids=str)
@pytest.mark.parametrize("tokens", [1, 5, 70, 300])
def test_products(tokens: int, dtype: torch.dtype, form: Format, kernel: str, device: torch.device) -> None:
    if device.type == "cpu" and (kernel != "triton" or dtype == torch.float16 or tokens in (5, 300)):
        pytest.skip("has tests of its own on a CPU")
    layer = layer_of(form, dtype, kernel, device, activation="gelu")
    if not taken(layer, dtype):
        pytest.skip("the kernel does not take it")
    x = torch.randn(tokens, IN, dtype=dtype, device=device)
    with torch.no_grad():
        assert_close(layer(x), exact(layer, x), dtype)
        assert_close(layer(x.reshape(1, tokens, IN).mT.contiguous().mT), exact(layer, x[None]), dtype)


@pytest.mark.parametrize("form", [BSR(16, 16), BSR(64, 16), BSR(32, 1), SemiStructured(), CSR()], ids=str)
@pytest.mark.parametrize("dtype", ERRORS, ids=str)
def test_gradients(form: Format, dtype: torch.dtype, device: torch.device) -> None:
    layer = layer_of(form, dtype, "triton" if isinstance(form, BSR) else "reference", device, keep=0.05)
    twin = copy.deepcopy(layer).cpu().double()
    twin.kernel = "reference"
    x = torch.randn(70, IN, dtype=dtype, device=device, requires_grad=True)
    x2 = x.detach().cpu().double().requires_grad_()
    grad = torch.randn(70, OUT, dtype=dtype, device=device)
    layer(x).backward(grad)
    twin(x2).backward(grad.cpu().double())
    for found, expected in zip((x, *layer.parameters()), (x2, *twin.parameters()), strict=True):
        assert_close(found.grad, expected.grad, dtype)


def test_gradients_are_the_same_each_time(device: torch.device) -> None:
    layer = layer_of(BSR(16, 4), torch.float32, "triton", device, keep=0.05)
    x = torch.randn(70, IN, device=device, requires_grad=True)
    grad = torch.randn(70, OUT, device=device)
    first, again = (torch.autograd.grad(layer(x), (x, *layer.parameters()), grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pointwise_convolutions(dtype: torch.dtype, device: torch.device) -> None:
    form = BSR(16, 16)
    packed = form.pack(torch.randn(OUT, IN, dtype=dtype), mask_for(form, OUT, IN, 0.05))
    layer = SparseConv2d(packed, torch.randn(OUT, dtype=dtype), Geometry((1, 1)), "triton", "relu").to(device)
    x = torch.randn(2, IN, 4, 3, dtype=dtype, device=device, requires_grad=True)
    weight, bias = (t.detach().cpu().double() for t in (layer.weight, layer.bias))
    x2 = x.detach().cpu().double().requires_grad_()
    y, expected = layer(x), F.relu(F.conv2d(x2, weight, bias))
    assert_close(y, expected.detach(), dtype)
    y.backward(torch.ones_like(y))
    mask = (y > 0).cpu().double()  # where roundings move a zero, the gradient is another one
    (F.conv2d(x2, weight, bias) * mask).sum().backward()
    assert_close(x.grad, x2.grad, dtype)


def test_training(device: torch.device) -> None:
    """A few steps of fine-tuning end where the reference in float64 does."""
    layer = layer_of(BSR(32, 16), torch.float32, "triton", device, activation="relu", keep=0.05)
    twin = copy.deepcopy(layer).cpu().double()
    twin.kernel = "reference"
    x, y = torch.randn(40, IN), torch.randn(40, OUT)
    for net, at, dtype in ((layer, device, torch.float32), (twin, torch.device("cpu"), torch.float64)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            F.mse_loss(net(x.to(at, dtype)), y.to(at, dtype)).backward()
            optimizer.step()
    assert_close(layer.weight, twin.weight.detach(), torch.float32)


def small_net() -> tuple[nn.Module, dict[str, Tensor]]:
    net = nn.Sequential(nn.Linear(IN, OUT), nn.GELU(), nn.Linear(OUT, 64), nn.ReLU(), nn.Linear(64, 10))
    return net, {"0.weight": mask_for(BSR(16, 16), OUT, IN, 0.1), "2.weight": mask_for(CSR(), 64, OUT, 0.1)}


def masked(net: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    dense = copy.deepcopy(net).cpu().double().eval()
    with torch.no_grad():
        for name, mask in masks.items():
            dense.get_parameter(name).mul_(mask.cpu())
    return dense


@pytest.mark.filterwarnings("ignore:.*was asked for and is slower than dense")
def test_an_exported_net_moves_between_devices(device: torch.device, tmp_path) -> None:  # type: ignore[no-untyped-def]
    net, masks = small_net()
    x = torch.randn(33, IN)
    sparse = bp.export(net, {}, masks, example=x, formats={"0": BSR(16, 16), "2": CSR()}, cached=False)
    sparse[0].kernel = "triton"
    expected = masked(net, masks)(x.double()).detach()
    bp.save(sparse, tmp_path / "net.safetensors")
    for moved in (copy.deepcopy(sparse).to(device), bp.load(tmp_path / "net.safetensors").to(device)):
        assert moved[0].kernel == "triton" and moved[0].crow.device.type == device.type
        with torch.no_grad():
            assert_close(moved(x.to(device)), expected, torch.float32)
        bp.save(moved, tmp_path / "again.safetensors")
        assert_close(bp.load(tmp_path / "again.safetensors")(x), expected, torch.float32)
        with torch.no_grad():
            assert_close(moved.cpu()(x), expected, torch.float32)


# Compiled in a process of its own: the checks of types and shapes that tests switch on are no part of a user's process.
COMPILED = """
import sys, torch
from torch import nn
from bayesprune.sparse import BSR, SparseLinear
torch.manual_seed(0)
device, backend = sys.argv[1:]
mask = (torch.rand(4, 12) < 0.1).repeat_interleave(64, 0).repeat_interleave(16, 1)
packed = BSR(64, 16).pack(torch.randn(256, 192), mask)
layer = SparseLinear(packed, torch.randn(256), "triton")
net = nn.Sequential(layer, nn.Tanh(), nn.Linear(256, 8)).to(device)
compiled = torch.compile(net, fullgraph=True, backend=backend, dynamic=True)
for tokens in (5, 40):
    x = torch.randn(tokens, 192, device=device)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x), atol=1e-5, rtol=1e-5)
compiled(x).square().sum().backward()
found = [p.grad.clone() for p in net.parameters()]
net.zero_grad()
net(x).square().sum().backward()
for a, p in zip(found, net.parameters(), strict=True):
    torch.testing.assert_close(a, p.grad, atol=1e-3, rtol=1e-4)
print("fine")
"""


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled(backend: str, device: torch.device) -> None:
    if backend == "inductor" and device.type == "cpu":
        pytest.skip("inductor is for the GPU")
    command = [sys.executable, "-c", COMPILED, device.type, backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "fine", done.stderr


def test_autocast_computes_in_the_values_dtype(device: torch.device) -> None:
    layer = layer_of(BSR(16, 16), torch.float32, "triton", device)
    x = torch.randn(20, IN, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        tracked = layer(x.bfloat16())
        with torch.no_grad():
            plain = layer(x.bfloat16())
    assert tracked.dtype == torch.float32 and torch.equal(tracked, plain)
    assert_close(tracked, exact(layer, x.bfloat16()), torch.float32)


@pytest.mark.parametrize(
    ("form", "kernel"), [(BSR(64, 64), "triton"), (BSR(16, 1), "triton"), (SemiStructured(), "cusparselt")]
)
@pytest.mark.parametrize("tokens", [1, 64])
def test_cuda_graphs(tokens: int, form: Format, kernel: str, gpu: torch.device) -> None:
    layer = layer_of(form, torch.bfloat16, kernel, gpu)
    if not taken(layer, torch.bfloat16):
        pytest.skip("the kernel does not take it")
    x = torch.randn(tokens, IN, dtype=torch.bfloat16, device=gpu)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        for _ in range(3):
            layer(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        y = layer(x)
    for _ in range(3):
        x.copy_(torch.randn_like(x))
        graph.replay()
        assert_close(y, exact(layer, x), torch.bfloat16)


@pytest.mark.parametrize(("form", "kernel"), [(BSR(48, 16), "triton"), (SemiStructured(), "cusparselt")], ids=str)
def test_a_layer_that_a_capture_meets_first(form: Format, kernel: str, gpu: torch.device) -> None:
    """A call of its kind went before, which loads the kernel; what the graph makes of the layer stays in the graph."""
    layer, other = (layer_of(form, torch.float16, kernel, gpu) for _ in range(2))
    if not taken(layer, torch.float16):
        pytest.skip("the kernel does not take it")
    x = torch.randn(17, IN, dtype=torch.float16, device=gpu)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        other(x)
        with torch.cuda.graph(graph):
            y = layer(x)
        assert_close(layer(x), exact(layer, x), torch.float16)
    graph.replay()
    assert_close(y, exact(layer, x), torch.float16)


def test_a_training_step_in_a_graph(gpu: torch.device) -> None:
    layer = layer_of(BSR(64, 16), torch.float32, "triton", gpu, keep=0.05)
    twin = copy.deepcopy(layer)
    x, y = torch.randn(64, IN, device=gpu), torch.randn(64, OUT, device=gpu)

    def step(net: SparseLinear) -> None:
        F.mse_loss(net(x), y).backward()
        with torch.no_grad():
            for p in net.parameters():
                p -= 0.1 * p.grad
                p.grad.zero_()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(layer)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(layer)
    for _ in range(3):
        graph.replay()
    for _ in range(4):
        step(twin)
    torch.testing.assert_close(layer.values, twin.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("form", "kernel"), [(BSR(32, 16), "triton"), (SemiStructured(), "cusparselt"), (BSR(32, 32), "torch_bsr")]
)
def test_another_stream(form: Format, kernel: str, gpu: torch.device) -> None:
    layer = layer_of(form, torch.float16, kernel, gpu)
    if not taken(layer, torch.float16):
        pytest.skip("the kernel does not take it")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side), torch.no_grad():
        x = torch.randn(4096, IN, device=gpu).cumsum(0).half().remainder(1)  # not ready when the layer is called
        y = layer(x)
    side.synchronize()
    assert_close(y, exact(layer, x), torch.float16)


def test_another_device(gpu: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    layer = layer_of(BSR(32, 16), torch.float16, "triton", torch.device("cuda:1"))
    x = torch.randn(20, IN, dtype=torch.float16, device="cuda:1", requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.device.index == 1 and torch.cuda.current_device() == 0
    assert_close(y, exact(layer, x), torch.float16)


def test_two_of_four_follows_its_values(gpu: torch.device) -> None:
    layer = layer_of(SemiStructured(), torch.bfloat16, "cusparselt", gpu)
    if not taken(layer, torch.bfloat16):
        pytest.skip("there is no cuSPARSELt")
    x = torch.randn(20, IN, dtype=torch.bfloat16, device=gpu)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    for _ in range(3):
        y = layer(x)
        assert_close(y, exact(layer, x), torch.bfloat16)
        optimizer.zero_grad()
        y.mean().backward()
        optimizer.step()
    layer.load_state_dict({name: torch.clone(t) for name, t in layer.state_dict().items()})
    assert_close(layer(x), exact(layer, x), torch.bfloat16)
    assert torch.equal(layer.sparse_weight.to_torch().to_dense(), layer.weight)


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        (BSR(64, 64), {"BSR(64, 64) triton", "BSR(64, 64) torch_bsr"}),
        (BSR(128, 16), {"BSR(128, 16) triton", "BSR(128, 16) torch_bsr"}),
        (BSR(16, 1), {"BSR(16, 1) triton"}),
        (CSR(), {"CSR torch"}),
        (SemiStructured(), {"SemiStructured cusparselt"}),
    ],
)
def test_a_plan_is_made_by_the_clock(form: Format, wanted: set[str], gpu: torch.device) -> None:
    if isinstance(form, SemiStructured) and not torch.backends.cusparselt.is_available():
        pytest.skip("there is no cuSPARSELt")
    layer = nn.Linear(1024, 1024, device=gpu, dtype=torch.bfloat16)
    masks = {"weight": mask_for(form, 1024, 1024, 0.1)}
    x = torch.randn(64, 1024, device=gpu, dtype=torch.bfloat16)
    choice = bp.plan(layer, masks, example=x, cached=False)["weight"]
    assert wanted <= set(choice.seconds) and not any(label.endswith("native") for label in choice.seconds)
    if choice.format != Dense():
        assert choice.seconds[choice.label] == min(choice.seconds.values())
    sparse = bp.export(layer, {}, masks, example=x, cached=False)
    assert_close(sparse(x), masked(layer, masks)(x.cpu().double()), torch.bfloat16)


def test_x_and_weight_are_on_one_device(gpu: torch.device) -> None:
    layer = layer_of(BSR(16, 16), torch.float32, "triton", gpu)
    with torch.no_grad(), pytest.raises(ValueError, match=r"expected x in torch.float32 on cuda:0.*got .* on cpu"):
        layer(torch.randn(3, IN))


def test_formats_are_packed_where_the_weight_is(gpu: torch.device) -> None:
    for form in FORMS:
        weight, mask = torch.randn(OUT, IN), mask_for(form, OUT, IN)
        here, there = form.pack(weight, mask), form.pack(weight.to(gpu), mask.to(gpu))
        form.check(there)
        buffers: list[Callable[[object], Tensor]] = [lambda p, n=n: getattr(p, n) for n in ("values", "crow", "col")]
        assert all(torch.equal(get(here), get(there).cpu()) for get in buffers)
        assert torch.equal(here.dense(), there.dense().cpu())
