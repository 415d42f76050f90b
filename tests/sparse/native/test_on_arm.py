"""The NEON kernel, run by an emulator of the processor: against float64 dense, as the others are."""

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.paths import ROOT

from bayesprune.sparse import BSR, CSR
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.layers.linear import SparseLinear

pytest.importorskip("llvmlite")

from bayesprune.sparse.native import choose
from bayesprune.sparse.native.arguments import SLOTS, Arguments
from bayesprune.sparse.native.arithmetic import itemsize
from bayesprune.sparse.native.compiled import assembly
from bayesprune.sparse.native.host import NEON
from bayesprune.sparse.native.spec import Spec

CC, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
pytestmark = pytest.mark.skipif(
    not (shutil.which(CC) and shutil.which(EMULATOR)), reason=f"needs {CC} and {EMULATOR} (qemu-user)"
)
BUFFERS = "x", "y", "values", "crow", "col", "bias", "scale", "table"


def sizes(a: Arguments, spec: Spec) -> dict[str, int]:
    """The bytes of what each address of the arguments leads to."""
    crow = (ctypes.c_int32 * (a.rows + 1)).from_address(a.crow)
    col = (ctypes.c_int32 * crow[a.rows]).from_address(a.col)
    weights, inputs = itemsize(spec.weights), itemsize(spec.inputs)
    images = a.items // a.chunks // (a.down * a.across) if spec.table else 0
    tokens = a.tokens * (images * a.down * max(1, spec.tile // spec.row) if spec.table else 1)  # of a row, or all
    return {
        "x": inputs * (images * a.image if spec.table else a.tokens * a.inputs),
        "y": inputs * tokens * a.outputs,
        "values": weights * crow[a.rows] * spec.h * spec.w,
        "crow": 4 * (a.rows + 1),
        "col": 4 * crow[a.rows],
        "bias": inputs * a.outputs if a.bias else 0,
        "scale": 4 * a.outputs if a.scale else 0,
        "table": 4 * (max(col) + 1) if spec.table else 0,
    }


def emulated(program: Path, spec: Spec) -> Callable[[int], None]:
    """A function of the address of a kernel's arguments, as a compiled one is."""

    def function(address: int) -> None:
        a = Arguments.from_address(address)
        known = sizes(a, spec)
        numbers = [getattr(a, name) for name in SLOTS]
        held = [len(numbers), SLOTS["table"], *numbers]
        parts = [struct.pack(f"<{len(held)}q", *held)]
        for name in BUFFERS:
            parts += [struct.pack("<q", known[name]), ctypes.string_at(getattr(a, name), known[name])]
        given = program.with_suffix(".in")
        given.write_bytes(b"".join(parts))
        done = subprocess.run([EMULATOR, program, given], capture_output=True, timeout=120, check=True)
        assert len(done.stdout) == known["y"]
        ctypes.memmove(a.y, done.stdout, known["y"])

    return function


@pytest.fixture
def on_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Spec]]:
    """Kernels are made for NEON and run by the emulator; the specs of those that were made."""
    made: list[Spec] = []
    numbers = count()

    def entry(make: Callable[[Spec], str], name: str, spec: Spec) -> tuple[Any, int, object]:
        program = tmp_path / f"kernel{next(numbers)}"
        code = program.with_suffix(".s")
        code.write_text(assembly(make(spec), NEON))
        driver = ROOT / "tests/support/on_arm.c"
        subprocess.run([CC, "-march=armv8.2-a", "-static", "-o", program, driver, code], check=True, timeout=120)
        made.append(spec)
        return emulated(program, spec), 0, program

    monkeypatch.setattr(choose, "host_isa", lambda: NEON)
    monkeypatch.setattr(choose, "entry", entry)
    for name in ("product", "convolution"):
        monkeypatch.setattr(choose, name, getattr(choose, name).__wrapped__)
    yield made
    assert made and all(spec.isa is NEON for spec in made)


CASES = {  # format, outputs, inputs, dtypes of weight and input, tokens, what a sum over |w| |x| may be off by
    "blocks": (BSR(16, 4), 50, 40, torch.float32, torch.float32, 20, 1e-6),
    "one token": (BSR(16, 4), 48, 40, torch.float32, torch.float32, 1, 1e-6),
    "narrow blocks": (BSR(4, 1), 30, 41, torch.float32, torch.float32, 9, 1e-6),
    "odd blocks": (BSR(3, 2), 37, 30, torch.float32, torch.float32, 13, 1e-6),
    "unstructured": (CSR(), 33, 41, torch.float32, torch.float32, 20, 1e-6),
    "integers": (BSR(8, 2, bits=8), 30, 40, torch.float32, torch.float32, 7, 1e-6),
    "bfloat16": (BSR(16, 4), 48, 40, torch.bfloat16, torch.bfloat16, 7, 1e-2),
    "float16": (CSR(), 33, 40, torch.float16, torch.float16, 7, 2e-3),
}


@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_masked_dense(name: str, on_arm: list[Spec]) -> None:
    form, out, into, dtype, inputs, tokens, near = CASES[name]
    torch.manual_seed(0)
    packed = form.pack(torch.randn(out, into).to(dtype), torch.rand(out, into) < 0.3)
    layer = SparseLinear(packed, torch.randn(out).to(inputs), "native", "gelu")
    x = torch.randn(tokens, into).to(inputs)
    with torch.no_grad():
        found = layer(x)
        weight, bias = packed.dense().double(), layer.bias.double()
        expected = F.gelu(F.linear(x.double(), weight, bias))
        size = F.linear(x.double().abs(), weight.abs(), bias.abs())
    assert float(((found.double() - expected).abs() / size.clamp_min(1e-9)).max()) < near
    assert len(on_arm) == 1


@pytest.mark.parametrize("padding", [0, 1])
def test_convolutions_are_those_of_the_masked_dense(padding: int, on_arm: list[Spec]) -> None:
    torch.manual_seed(0)
    geometry = Geometry((3, 3), padding=(padding, padding))
    packed = BSR(8, 2).pack(torch.randn(16, 36), torch.rand(16, 36) < 0.4)
    layer = SparseConv2d(packed, torch.randn(16), geometry, "native")
    x = torch.randn(2, 4, 9, 7)
    with torch.no_grad():
        found = layer(x)
        expected = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=padding)
        size = F.conv2d(x.double().abs(), layer.weight.double().abs(), layer.bias.double().abs(), padding=padding)
    assert float(((found.double() - expected).abs() / size).max()) < 1e-6
    assert len(on_arm) == 1
