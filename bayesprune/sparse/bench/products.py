"""Benchmark of sparse and dense products on the user's shapes and processor."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune._copies import copied
from bayesprune.sparse.formats import BSR, CSR, Format
from bayesprune.sparse.gpu.devices import require_gpu
from bayesprune.sparse.kernels import KERNELS, Kernel
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.surgery.surgery import Surgery
from bayesprune.sparse.timing.interleaved import time_interleaved

__all__ = ["Measured", "Setting", "bench", "dense_twin", "measured_peak", "random_mask", "rival_ways"]


@dataclass(frozen=True)
class Setting:
    """One product to time.

    Args:
        out, into: the weight's outputs and inputs.
        tokens: rows of x.
        sparsity: the fraction of the blocks that is gone, at random, in [0, 1).
        form: how the rest is packed.
        dtype: of x and the weight.
        threads: how many threads torch and our kernel use, on a CPU.
        device: ``"cpu"``, or a CUDA GPU's name.
    """

    out: int
    into: int
    tokens: int
    sparsity: float
    form: Format
    dtype: torch.dtype = torch.float32
    threads: int = 1
    device: str = "cpu"

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        weight = f"{self.out}×{self.into}, {self.sparsity:.0%} of {self.form} gone"
        on = f"{self.threads} thread{'s' * (self.threads != 1)}" if self.device == "cpu" else self.device
        return f"{weight}, {self.tokens} tokens, {dtype}, {on}"


@dataclass(frozen=True)
class Measured:
    """What came out of a setting: median seconds of each way, in turns; ``"dense"`` is ``F.linear``."""

    setting: Setting
    seconds: Mapping[str, float]
    kept: float

    @property
    def ideal(self) -> float:
        """How often the kept part goes into the whole."""
        return 1 / max(self.kept, 1e-9)

    def speedup(self, name: str) -> float:
        """Dense time over the time of ``name``."""
        return self.seconds["dense"] / self.seconds[name]

    def gflops(self, name: str) -> float:
        """Multiplications and additions a second, in 10⁹: of all entries for dense ways, else of the kept ones."""
        s = self.setting
        share = 1.0 if name in _DENSE else self.kept
        return 2e-9 * s.out * s.into * s.tokens * share / self.seconds[name]

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        plain = asdict(self.setting) | {"form": str(self.setting.form), "dtype": str(self.setting.dtype)}
        ratios = {name: self.speedup(name) for name in self.seconds}
        return {**plain, "kept": self.kept, "ideal": self.ideal, "seconds": dict(self.seconds), "speedup": ratios}


_DENSE = ("dense", "onnxruntime dense")


def random_mask(setting: Setting, seed: int = 0) -> Tensor:
    """Blocks that stay, uniformly at random: bool ``(out, in)``."""
    h, w = setting.form.block or (1, 1)
    rows, cols = setting.form.grid((setting.out, setting.into))
    keep = max(1, round((1 - setting.sparsity) * rows * cols))
    grid = torch.zeros(rows * cols, dtype=torch.bool)
    grid[torch.randperm(rows * cols, generator=torch.Generator().manual_seed(seed))[:keep]] = True
    grid = grid.view(rows, cols).repeat_interleave(h, 0).repeat_interleave(w, 1)
    return grid[: setting.out, : setting.into]


def _torch_ways(form: Format, weight: Tensor, mask: Tensor, x: Tensor) -> dict[str, Callable[[], object]]:
    """torch's own sparse products with x ``(tokens, in)``, over tensors made beforehand, where torch has them."""
    ways: dict[str, Callable[[], object]] = {}
    csr = CSR().pack(weight, mask)
    tensors = {"torch CSR @ x": csr.to_torch()}
    if form.block is not None:
        bsr = BSR(*form.block).pack(weight, mask)
        if any(KERNELS[name].supports(bsr) for name in ("torch", "torch_bsr")):
            tensors["torch BSR @ x"] = bsr.to_torch()
    for name, tensor in tensors.items():
        ways[name] = partial(torch.matmul, tensor, x.T)
        if "BSR" in name:
            ways["torch linear(x, BSR)"] = partial(F.linear, x, tensor)
    working = {}
    for name, way in ways.items():
        try:
            way()
        except RuntimeError:  # a dtype or layout that torch lacks
            continue
        working[name] = way
    return working


def _scipy_way(form: Format, weight: Tensor, mask: Tensor, x: Tensor) -> dict[str, Callable[[], object]]:
    import scipy.sparse

    if x.is_cuda or x.dtype not in (torch.float32, torch.float64):
        return {}
    masked, across = (weight * mask).numpy(), x.T.contiguous().numpy()
    name, made = "scipy CSR", scipy.sparse.csr_array(masked)
    h, w = form.block or (1, 1)
    if h * w > 1 and not weight.shape[0] % h and not weight.shape[1] % w:
        name, made = "scipy BSR", scipy.sparse.bsr_array(masked, blocksize=(h, w))
    return {name: partial(made.__matmul__, across)}


def rival_ways(form: Format, weight: Tensor, mask: Tensor, x: Tensor) -> dict[str, Callable[[], object]]:
    """The sparse products of others by ``weight * mask``, packed beforehand, with x ``(tokens, in)``."""
    return _torch_ways(form, weight, mask, x) | _scipy_way(form, weight, mask, x)


def _onnx_way(weight: Tensor, x: Tensor, threads: int) -> dict[str, Callable[[], object]]:
    if find_spec("onnxruntime") is None or find_spec("onnx") is None or x.is_cuda or x.dtype != torch.float32:
        return {}
    import onnx
    import onnxruntime

    f = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "dense",
        [onnx.helper.make_tensor_value_info("x", f, list(x.shape))],
        [onnx.helper.make_tensor_value_info("y", f, [x.shape[0], weight.shape[0]])],
        [onnx.numpy_helper.from_array(weight.T.contiguous().numpy(), "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {"onnxruntime dense": partial(session.run, None, {"x": x.numpy()})}


def _place(name: str) -> tuple[torch.device, Kernel]:
    """The device of that name and our kernel for it. Raises ``ValueError`` where there is none."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"our kernels run on cpu and cuda, got the device {name!r}")
    return (device, KERNELS["native"]) if device.type == "cpu" else (require_gpu(device), KERNELS["triton"])


def bench(setting: Setting, rivals: bool = True, budget: float = 1.0) -> Measured:
    """Time one product: dense, ours and, with ``rivals``, torch's sparse paths, scipy and ONNX Runtime where installed.

    They take turns; medians. Weights and masks are random, seeded.

    Raises:
        ValueError: the kernel does not take the format, dtype or device, or the device is not there.

    >>> found = bench(Setting(64, 64, 8, 0.5, BSR(16, 16)), rivals=False, budget=0.05)
    >>> sorted(found.seconds)
    ['dense', 'ours']
    """
    generator = torch.Generator().manual_seed(0)
    device, kernel = _place(setting.device)
    weight = torch.randn(setting.out, setting.into, generator=generator).to(device, setting.dtype)
    x = torch.randn(setting.tokens, setting.into, generator=generator).to(device, setting.dtype)
    mask = random_mask(setting).to(device)
    packed = setting.form.pack(weight, mask)
    if not kernel.takes(packed, setting.dtype):
        why = kernel.why_not(packed) or "is llvmlite installed?"
        raise ValueError(f"our kernel does not take {setting.form} of {setting.dtype} here: {why}")
    layer = SparseLinear(packed, None, kernel.name)
    before = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    try:
        with torch.no_grad():
            ways: dict[str, Callable[[], object]] = {"dense": partial(F.linear, x, weight), "ours": partial(layer, x)}
            if rivals:
                ways |= rival_ways(setting.form, weight, mask, x) | _onnx_way(weight, x, setting.threads)
            seconds = time_interleaved(ways, device=x.device, budget=budget, rounds=200, sample=1e-3)
    finally:
        torch.set_num_threads(before)
    return Measured(setting, seconds, int(mask.count_nonzero()) / mask.numel())


def measured_peak(
    dtype: torch.dtype = torch.float32, threads: int = 1, budget: float = 1.0, device: str = "cpu"
) -> float:
    """The most multiplications and additions a second, in 10⁹, that a large dense product reaches in ``budget`` s."""
    a = torch.randn(2048, 2048).to(device, dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        seconds = time_interleaved({"product": partial(torch.mm, a, a)}, device=a.device, budget=budget, rounds=20)
    finally:
        torch.set_num_threads(before)
    return 2e-9 * 2048**3 / seconds["product"]


def dense_twin(net: nn.Module) -> nn.Module:
    """A copy of a net whose packed layers are dense again, zeros stored: what it is to be compared with."""
    return Surgery.of(net).undo(copied(net)).eval()
