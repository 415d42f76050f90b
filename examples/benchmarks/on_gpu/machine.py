"""Which machine this is, and what it does in a second, measured."""

import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

import bayesprune
from on_gpu.clock import Clock

__all__ = ["identity", "l2_sums", "measured_peaks", "this_run"]

_TILE = 4096  # float32 numbers that a program reads at a time


def _said(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, cwd=Path(__file__).parent, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def identity(device: torch.device) -> dict[str, Any]:
    """What figures depend on: those of two identities do not belong into one table."""
    on_gpu = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if on_gpu else None
    changed = _said("git", "status", "--porcelain", "--untracked-files=no")
    return {
        "device": properties.name if properties else platform.machine(),
        "multiprocessors": properties.multi_processor_count if properties else None,
        "memory_gib": round(properties.total_memory / 2**30, 1) if properties else None,
        "l2_mib": round(properties.L2_cache_size / 2**20, 1) if properties else None,
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_gpu else None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "bayesprune": bayesprune.__version__,
        "commit": _said("git", "rev-parse", "HEAD"),
        "changed_since": None if changed is None else bool(changed),
    }


def this_run() -> dict[str, Any]:
    """When, and by which command."""
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "command": shlex.join(["python", *sys.argv])}


@triton.jit
@no_type_check
def _read(space, sums, tiles, SIZE: tl.constexpr):  # noqa: N803
    """Every program reads the whole space, each from another tile on, past the L1 cache, and stores its sum."""
    program = tl.program_id(0)
    total = tl.zeros((SIZE,), dtype=tl.float32)
    for step in range(tiles):
        tile = (program * 7 + step) % tiles
        total += tl.load(space + tile * SIZE + tl.arange(0, SIZE), cache_modifier=".cg")
    tl.store(sums + program, tl.sum(total, 0))


def l2_sums(space: Tensor, programs: int) -> Tensor:
    """The sum of ``space``, worked out by each of so many programs: it reads ``programs × space.nbytes`` from L2."""
    sums = space.new_empty(programs)
    _read[(programs,)](space, sums, space.numel() // _TILE, SIZE=_TILE, num_warps=8)
    return sums


def measured_peaks(clock: Clock) -> dict[str, Any]:
    """A bf16 product of 8,192³ on random numbers, a copy of 2 GiB, and 8 MiB of L2 read by 8 programs a processor."""
    device = clock.device
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = clock.seconds(lambda: a @ b)
    source = torch.empty(2**31, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    copy = clock.seconds(lambda: target.copy_(source))
    space = torch.ones(2**21, device=device)
    programs = 8 * torch.cuda.get_device_properties(device).multi_processor_count
    read = clock.seconds(lambda: l2_sums(space, programs))
    nothing = clock.seconds(lambda: None)
    return {
        "flops": 2 * 8192**3 / product,
        "memory": 2 * source.nbytes / copy,
        "l2": programs * space.nbytes / read,
        "nothing_us": nothing * 1e6,
    }
