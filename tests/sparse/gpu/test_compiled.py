"""The kernels compiled for GPUs that are not there: shared memory, tensor cores, asynchronous copies."""

import itertools
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from bayesprune.sparse.activations import ACTIVATIONS
from bayesprune.sparse.formats import BSR, Operands
from bayesprune.sparse.gpu.devices import interpreted
from bayesprune.sparse.gpu.tuning import Config, Problem, candidates, power, shared_memory

pytest.importorskip("triton")
if interpreted():
    pytest.skip("kernels of Triton's interpreter cannot be compiled", allow_module_level=True)

from support.compiling import MEMORY, compiled
from triton import knobs

from bayesprune.sparse.gpu.launch import Call

HEIGHTS = (16, 24, 32, 48, 64, 96, 100, 128)
WIDTHS = (1, 2, 3, 8, 16, 32, 48, 64)
HALF, BRAIN, SINGLE, INT8 = torch.float16, torch.bfloat16, torch.float32, torch.int8
KINDS = ((HALF, HALF, True), (BRAIN, BRAIN, True), (SINGLE, SINGLE, True), (INT8, BRAIN, True), (SINGLE, SINGLE, False))


def all_configurations() -> dict[Config, list[tuple[Problem, int]]]:
    """Every configuration that can be chosen, splits of more than two aside, with problems and GPUs that it is for."""
    found: dict[Config, list[tuple[Problem, int]]] = {}
    sizes = itertools.product(HEIGHTS, WIDTHS, KINDS, (1, 64), (16, 512), (1, 2, 4, 8, 32, 64, 256, 2048), MEMORY)
    for h, w, kind, rows, entries, tokens, arch in sizes:
        problem = Problem(*kind, h, w, rows, entries, tokens, MEMORY[arch], 108, aligned=w != 64 or rows > 1)
        for config in candidates(problem):
            found.setdefault(config._replace(split=min(config.split, 2)), []).append((problem, arch))
    return found


FOUND = all_configurations()
SPREAD = {config: problems[7919 * i % len(problems)] for i, (config, problems) in enumerate(sorted(FOUND.items()))}
# Whether sums are split changes the last lines of a kernel alone: every other split is left out.
CHOSEN = [c for i, c in enumerate(SPREAD) if c.split == 1 or i % 4 == 0]


def call_on_meta(config: Config, problem: Problem, activation: str = "gelu") -> tuple[Call, tuple, tuple]:
    """A call of ragged or even sizes, and its arguments, on tensors without memory."""
    h, w = problem.h, problem.w
    out, into, tokens = 4096, 4096, max(problem.tokens, 16)
    rows = -(-out // h)
    x = torch.empty(tokens, into, dtype=problem.x, device="meta")
    index = torch.empty(rows + 1, dtype=torch.int32, device="meta")
    values = torch.empty(64, w, h, dtype=problem.values, device="meta")
    bias = x.new_empty(out)
    scale = bias.float() if problem.values == INT8 else None
    precision = "tf32" if problem.cores else "ieee"
    call = Call(config, x, Operands(values, index, index, bias, scale, (out, into), activation, BSR(h, w)), precision)
    split = config.split > 1
    y = x.new_empty(tokens, out, dtype=SINGLE if split else problem.x)
    tensors = (x, values, index, index, *((None, None) if split else (bias, scale)), y)
    return call, tensors, (tokens, tokens, into, out, rows, *((1, tokens) if config.turned else (into, 1)))


def made_for(config: Config, problem: Problem, arch: int, activation: str = "gelu") -> Any:
    call, tensors, numbers = call_on_meta(config, problem, activation)
    return compiled(call.product, tensors, numbers, arch)


def stack_of(made: Any, folder: Path) -> int:
    """Bytes a thread that did not fit its registers."""
    code = folder / "kernel.cubin"
    code.write_bytes(made.asm["cubin"])
    command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(code)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"STACK:(\d+)", told)
    assert found, told
    return int(found[1])


@pytest.mark.parametrize("config", CHOSEN, ids=lambda config: "-".join(map(str, config)))
def test_a_configuration_fits_and_is_pipelined(config: Config) -> None:
    problem, arch = SPREAD[config]
    problem = problem._replace(cores=True)  # plain float32 takes seconds to compile, and has a test of its own
    made = made_for(config, problem, arch)
    estimate = shared_memory(config, problem)
    assert made.metadata.shared <= estimate <= MEMORY[arch]
    ptx = made.asm["ptx"]
    assert "cp.async" in ptx
    if not config.few:
        wide_enough = arch == 90 and config.tile >= 64
        assert ("wgmma.mma_async" in ptx) == wide_enough or problem.x == SINGLE
        assert ("wgmma" in ptx) or ("mma.sync" in ptx)


@pytest.mark.parametrize("w", [1, 16, 64])
@pytest.mark.parametrize("h", HEIGHTS)
def test_many_tokens_get_wgmma_whatever_the_block(h: int, w: int, tmp_path: Path) -> None:
    problem = Problem(BRAIN, BRAIN, True, h, w, 64, 512, 64 if h in (16, 100) else 1024, MEMORY[90], 132)
    first = candidates(problem)[0]
    made = made_for(first, problem, 90, "relu")
    instructions = set(re.findall(r"wgmma\.mma_async\.sync\.aligned\.(m\d+n\d+k\d+)", made.asm["ptx"]))
    assert instructions == {f"m64n{power(h)}k16"}
    left, right = first.tile * first.step * 2, first.step * power(h) * 2
    assert made.metadata.shared >= first.stages * (left + right if h == power(h) else left)  # x in flight, each stage
    assert re.search(r"cp\.async\.cg\.shared\.global.*?, 0x10", made.asm["ptx"])
    assert stack_of(made, tmp_path) == 0


@pytest.mark.parametrize("arch", MEMORY)
@pytest.mark.parametrize("tokens", [4, 128])
@pytest.mark.parametrize("x", [HALF, BRAIN, SINGLE], ids=str)
def test_int8_values(x: torch.dtype, tokens: int, arch: int) -> None:
    problem = Problem(INT8, x, True, 64, 16, 64, 512, tokens, MEMORY[arch], 108)
    made = made_for(candidates(problem)[0], problem, arch)
    assert made.metadata.shared <= shared_memory(candidates(problem)[0], problem)
    assert tokens < 16 or "mma" in made.asm["ptx"]


@pytest.mark.parametrize("rounded", [False, True])
def test_float32_is_exact_or_rounded_to_tf32(rounded: bool) -> None:
    problem = Problem(SINGLE, SINGLE, rounded, 32, 16, 64, 512, 64, MEMORY[80], 108)
    ptx = made_for(candidates(problem)[0], problem, 80).asm["ptx"]
    assert ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" in ptx) == rounded
    assert ("mma.sync" in ptx) == rounded


@pytest.mark.parametrize("few", [True, False])
def test_constants_stand_in_the_kernels_order_and_a_launch_can_be_repeated(few: bool) -> None:
    problem = Problem(HALF, HALF, True, 16, 1, 64, 512, 4 if few else 64, MEMORY[90], 132)
    call, tensors, numbers = call_on_meta(candidates(problem)[0], problem)
    for launch, given in ((call.product, len(tensors) + len(numbers)), (call.finish, 4 + 2), (call.turn, 2 + 5)):
        assert launch.kernel.arg_names[given:] == list(launch.constants)
    made = compiled(call.product, tensors, numbers, 90)
    assert made.packed_metadata[0] == 4 and made.function is None  # found by the first call, in ``run``
    assert isinstance(type(made).run, property)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_second_kernels(activation: str) -> None:
    problem = Problem(HALF, HALF, True, 32, 1, 4, 4096, 32, MEMORY[90], 132)
    config = next(c for c in candidates(problem) if c.turned and c.split > 1)
    call, (x, *_), (tokens, _, into, out, *_) = call_on_meta(config, problem, activation)
    compiled(call.turn, (x, x.T.contiguous()), (tokens, into, into, 1, tokens), 80)
    partial = x.new_empty(config.split, tokens, out, dtype=SINGLE)
    made = compiled(call.finish, (partial, x[0], x[0], x), (tokens, out), 80)
    assert made.metadata.shared == 0  # each result is one thread's, in one order
