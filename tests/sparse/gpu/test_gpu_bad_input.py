"""What is asked of a GPU that cannot be had: each is refused, or runs elsewhere, in words that say why."""

import contextlib
import inspect
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.sparse import BSR, CSR, SemiStructured, SparseLinear, SparseWeight
from bayesprune.sparse.gpu import devices
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.kernels.cusparselt import CuSparseLt
from bayesprune.sparse.kernels.torch_bsr import TorchBSR
from bayesprune.sparse.kernels.torch_sparse import TorchSparse

without_gpu = pytest.mark.skipif(torch.cuda.is_available() or devices.interpreted(), reason="the kernels run here")


def layer_of(form: BSR | SemiStructured, kernel: str, dtype: torch.dtype = torch.float32) -> SparseLinear:
    mask = torch.arange(32) % 4 < 2
    return SparseLinear(form.pack(torch.randn(32, 32, dtype=dtype), mask.expand(32, 32)), None, kernel)


def assert_runs_by_the_reference(layer: SparseLinear, why: str, dtype: torch.dtype = torch.float32) -> None:
    x = torch.randn(3, 32, dtype=dtype)
    with pytest.warns(UserWarning, match=f"the kernel '{layer.kernel}' does not take .*{why}.*the reference runs"):
        y = layer(x)
    torch.testing.assert_close(y, x @ layer.weight.T)


@without_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_triton_kernel_without_a_gpu(dtype: torch.dtype) -> None:
    """A net exported for a GPU still runs where there is none, and says so."""
    pytest.importorskip("triton")
    layer = layer_of(BSR(16, 16), "triton", dtype)
    assert_runs_by_the_reference(layer, "the Triton kernels run on a CUDA GPU, and the tensors are on 'cpu'", dtype)


@pytest.mark.parametrize(("h", "w"), [(8, 16), (1, 1), (32, 2), (129, 4), (256, 16)])
def test_block_rows_that_triton_lacks(h: int, w: int) -> None:
    on_meta = torch.empty(1, w, h, device="meta")
    weight = SparseWeight(BSR(h, w), (h, w), on_meta, *[on_meta.new_empty(1, dtype=torch.int32)] * 2)
    assert (h in range(16, 129)) == KERNELS["triton"].why_not(weight).startswith("the")
    if h not in range(16, 129):
        layer = layer_of(BSR(h, w), "triton")
        assert_runs_by_the_reference(layer, f"{h}×{w} blocks of .*it multiplies by blocks of 16 to 128 outputs")


def test_a_format_that_triton_lacks() -> None:
    assert_runs_by_the_reference(layer_of(SemiStructured(), "triton"), "it multiplies by blocks of 16 to 128 outputs")


@without_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_cusparselt_without_a_gpu(dtype: torch.dtype) -> None:
    layer = layer_of(SemiStructured(), "cusparselt", dtype)
    assert_runs_by_the_reference(layer, "on a CUDA GPU that has cuSPARSELt", dtype)


@without_gpu
def test_torchs_own_bsr_without_a_gpu() -> None:
    assert_runs_by_the_reference(layer_of(BSR(16, 16), "torch_bsr"), "16×16 blocks of torch.float32 on cpu")


@without_gpu
def test_a_gpu_that_has_to_be_there() -> None:
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match=r"expected a CUDA GPU of compute capability 8.0 or newer: torch finds no"):
        devices.require_gpu()


@pytest.fixture
def old_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A Volta, as far as torch tells of it."""
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla V100")
    devices._on_cuda.cache_clear()
    yield torch.device("cuda")
    devices._on_cuda.cache_clear()


def test_a_compute_capability_too_old(old_gpu: torch.device) -> None:
    why = "Tesla V100 has compute capability 7.0, and the Triton kernels need 8.0 or newer"
    assert devices.obstacle(old_gpu) == why
    with pytest.raises(ValueError, match=why):
        devices.require_gpu(old_gpu)


class OnGPU:
    """The little that kernels ask of values before they run, as of a GPU that is not there."""

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float16) -> None:
        self.shape, self.dtype, self.is_cuda, self.is_cpu = shape, dtype, True, False
        self.device = torch.device("cuda")

    def dim(self) -> int:
        """How many sides they have."""
        return len(self.shape)

    def numel(self) -> int:
        return torch.Size(self.shape).numel()


@contextlib.contextmanager
def cusparselt(there: bool, capability: tuple[int, int]) -> Iterator[None]:
    from bayesprune.sparse.kernels import cusparselt as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.version, "hip", None)
        patch.setattr(torch.backends.cusparselt, "is_available", lambda: there)
        patch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        module._available.cache_clear()
        yield
    module._available.cache_clear()


def supports(kernel: object, values: OnGPU, shape: tuple[int, int]) -> bool:
    """Without the checks of types that tests may switch on: ``values`` is no tensor. Its shape tells the format."""
    form = BSR(*values.shape[:0:-1]) if values.dim() == 3 else SemiStructured() if values.dim() == 2 else CSR()
    weight = SimpleNamespace(format=form, values=values, shape=shape)
    return inspect.unwrap(type(kernel).supports)(kernel, weight)  # type: ignore[attr-defined]


def test_shapes_that_cusparselt_takes() -> None:
    kernel = CuSparseLt()
    with cusparselt(True, (9, 0)):
        assert supports(kernel, OnGPU(32, 24), (32, 48))
        assert supports(kernel, OnGPU(32, 24, dtype=torch.bfloat16), (32, 48))
        assert not supports(kernel, OnGPU(32, 24, dtype=torch.float32), (32, 48))
        assert not supports(kernel, OnGPU(24, 24), (24, 48)) and not supports(kernel, OnGPU(32, 20), (32, 40))
        assert not supports(kernel, OnGPU(3, 16, 16), (32, 48)) and not supports(kernel, OnGPU(768), (32, 48))
    with cusparselt(True, (7, 5)):
        assert not supports(kernel, OnGPU(32, 24), (32, 48))
    with cusparselt(False, (9, 0)):
        assert not supports(kernel, OnGPU(32, 24), (32, 48))


def test_blocks_that_torch_takes() -> None:
    pytest.importorskip("triton")
    kernel = TorchBSR()
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert supports(kernel, OnGPU(3, 32, 16, dtype=dtype), (64, 64))
    refused = [OnGPU(3, 8, 16), OnGPU(3, 16, 8), OnGPU(3, 48, 16), OnGPU(3, 16, 1), OnGPU(0, 16, 16), OnGPU(5)]
    refused += [OnGPU(3, 16, 16, dtype=torch.float64), OnGPU(3, 16, 16, dtype=torch.int8)]
    assert not any(supports(kernel, values, (64, 64)) for values in refused)
    assert not supports(kernel, OnGPU(3, 16, 16), (72, 64)) and not supports(kernel, OnGPU(3, 16, 16), (64, 72))
    entries = TorchSparse()
    assert supports(entries, OnGPU(7), (5, 5)) and supports(entries, OnGPU(7, dtype=torch.bfloat16), (5, 5))
    assert not supports(entries, OnGPU(3, 16, 16), (64, 64)) and not supports(entries, OnGPU(5, 4), (5, 8))


def test_no_kernel_of_the_cpu_is_offered_on_a_gpu() -> None:
    for name in ("native", "embedding_bag"):
        for values in (OnGPU(7), OnGPU(3, 16, 16)):
            assert not supports(KERNELS[name], values, (64, 64))


@without_gpu
def test_a_plan_for_a_gpu_that_is_not_there() -> None:
    """An example on a device that the net is not on: said before anything is timed."""
    net, mask = nn.Linear(32, 16), torch.eye(16, 32) > 0
    x = torch.randn(3, 32, device="meta")
    with pytest.raises(ValueError, match=r"the net cannot run on the example given \(\(3, 32\) .* on meta\)"):
        bp.plan(net, {"weight": mask}, example=x)


def test_x_elsewhere_than_the_weight() -> None:
    layer = layer_of(BSR(16, 16), "triton")
    with torch.no_grad(), pytest.raises(ValueError, match=r"expected x in torch.float32 on cpu.*got .* on meta"):
        layer(torch.empty(3, 32, device="meta"))
