"""What the host does for a call: looks the compiled kernel up, and hands it addresses and numbers."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from bayesprune.sparse import BSR
from bayesprune.sparse.formats import Operands
from bayesprune.sparse.gpu import launch
from bayesprune.sparse.gpu.launch import Launch, linear
from bayesprune.sparse.gpu.tuning import Config


class Kernel:
    """In a jitted kernel's place: remembers how it was called."""

    def __init__(self) -> None:
        self.through_triton: list[tuple[tuple, tuple, dict]] = []
        self.direct: list[tuple] = []
        run = lambda *arguments: self.direct.append(arguments)  # noqa: E731
        self.compiled = SimpleNamespace(function=11, packed_metadata=(4, 1, 0), run=run)

    def __getitem__(self, grid: tuple) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.through_triton.append((grid, arguments, options))
            return self.compiled

        return call


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 99, raising=False)
    return Kernel()


def test_the_first_call_compiles_and_later_ones_go_straight_to_the_driver(kernel: Kernel) -> None:
    call = Launch(kernel, {"A": 3, "B": "relu"}, warps=8, stages=2)
    x, y = torch.zeros(4), torch.zeros(8)
    call(7, (x, None, y), (5, 6))
    (grid, arguments, options), *_ = kernel.through_triton
    assert grid == (7,) and arguments[0] is x and arguments[1] is None and arguments[2] is y and arguments[3:] == (5, 6)
    assert options == {"A": 3, "B": "relu", "num_warps": 8, "num_stages": 2}
    call(9, (y, None, x), (5, 6))
    assert len(kernel.through_triton) == 1
    ours = (9, 1, 1, 99, 11, (4, 1, 0), None, None, None, y.data_ptr(), None, x.data_ptr(), 5, 6, 3, "relu")
    assert kernel.direct == [ours]


def test_tritons_own_launcher_understands_the_direct_call(kernel: Kernel) -> None:
    """Only the C function at its end, which needs a GPU, is replaced."""
    from triton.backends.nvidia.driver import CudaLauncher

    received: list[tuple] = []
    launcher = object.__new__(CudaLauncher)
    scratch = {f"{kind}_scratch_{what}": 0 for kind in ("global", "profile") for what in ("size", "align")}
    settings = {"num_ctas": 1, "launch_cooperative_grid": False, "launch_pdl": False, **scratch}
    settings |= {
        "arg_annotations": (),
        "kernel_signature": b"",
        "launch": lambda *arguments: received.append(arguments),
    }
    for name, value in settings.items():
        setattr(launcher, name, value)
    kernel.compiled.run = launcher
    call, x = Launch(kernel, {"A": 3, "B": "relu"}), torch.zeros(4)
    call(1, (x, None), (5,))
    call(9, (x, None), (5,))
    *before, last = received[0]
    everything = [*before, *(last if isinstance(last, tuple) else [last])]
    assert everything[:5] == [9, 1, 1, 99, 11]
    assert (4, 1, 0) in everything
    assert everything[-5:] == [x.data_ptr(), None, 5, 3, "relu"]


def test_tensors_off_the_grid_of_16_bytes_go_through_triton(kernel: Kernel) -> None:
    call = Launch(kernel, {})
    x = torch.zeros(8)
    for tensor in (x[1:], x, x[1:], x):
        call(1, (tensor,), ())
    assert [arguments[0].data_ptr() % 16 for _, arguments, _ in kernel.through_triton] == [4, 0, 4]
    assert [arguments[9] for arguments in kernel.direct] == [x.data_ptr()]


class Chosen:
    """In the tuner's place."""

    def __init__(self, settled: bool = True) -> None:
        self.problems: list[Any] = []
        self.settled = settled

    def __call__(self, problem: Any, device: torch.device, run: Any) -> tuple[Config, bool]:
        self.problems.append(problem)
        return Config(False, 16, 16, 1, False, 4, 1), self.settled


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> Chosen:
    choose = Chosen()
    monkeypatch.setattr(launch, "_calls", {})
    monkeypatch.setattr(launch, "choose", choose)
    monkeypatch.setattr(launch, "product", kernel)
    return choose


def weight(h: int = 16, into: int = 64, dtype: torch.dtype = torch.float32) -> Operands:
    packed = BSR(h, 16).pack(torch.ones(64, into, dtype=dtype), torch.ones(64, into, dtype=torch.bool))
    return packed.operands()


def test_calls_alike_are_prepared_once(kernel: Kernel, chosen: Chosen) -> None:
    own = weight()
    for tokens in (33, 40, 63, 33):
        assert linear(torch.ones(tokens, 64), own).shape == (tokens, 64)
    assert len(chosen.problems) == 1 and len(kernel.through_triton) == 1
    programs = [kernel.through_triton[0][0][0], *(arguments[0] for arguments in kernel.direct)]
    assert programs == [4 * 3, 4 * 3, 4 * 4, 4 * 3]  # block rows by tiles of 16 tokens


def test_calls_of_another_kind_are_prepared_anew(chosen: Chosen) -> None:
    x, own = torch.ones(40, 64), weight()
    kinds = [
        (x, own),
        (torch.ones(20, 64), own),  # another size of batch
        (torch.ones(48, 64), own),  # a multiple of 16
        (torch.ones(64, 40).T, own),  # feature by feature
        (torch.ones(40, 65)[:, :64], own),  # rows that begin anywhere
        (x, own._replace(activation="relu")),
        (x, own._replace(bias=torch.ones(64))),
        (x, weight(h=32)),
        (x.half(), weight(dtype=torch.float16)),
        (torch.ones(40, 128), weight(into=128)),
    ]
    for _ in range(2):
        for tensors in kinds:
            linear(*tensors)
    assert len(chosen.problems) == len(kinds)


def test_what_a_capture_met_is_not_remembered(chosen: Chosen) -> None:
    chosen.settled = False
    x, own = torch.ones(40, 64), weight()
    linear(x, own)
    linear(x, own)
    assert len(chosen.problems) == 2
    chosen.settled = True
    for _ in range(3):
        linear(x, own)
    assert len(chosen.problems) == 3


def test_float32_is_prepared_for_torchs_setting(chosen: Chosen) -> None:
    x, own, settings = torch.ones(40, 64), weight(), torch.backends.cuda.matmul
    before = settings.fp32_precision
    try:
        for precision in ("ieee", "tf32", "ieee"):
            settings.fp32_precision = precision
            linear(x, own)
    finally:
        settings.fp32_precision = before
    assert [problem.cores for problem in chosen.problems] == [False, True]


def test_x_that_is_strided_both_ways_is_copied(kernel: Kernel, chosen: Chosen) -> None:
    x = torch.ones(80, 128)[::2, ::2]
    linear(x, weight())
    _, arguments, _ = kernel.through_triton[0]
    assert arguments[0].is_contiguous() and arguments[-2:] == (64, 1)
