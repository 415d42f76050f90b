"""The on-disk cache of measured times, so that a second plan of the same masks is quick."""

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import bayesprune
from bayesprune._files import cache_folder, keep
from bayesprune.sparse.timing.interleaved import time_interleaved

__all__ = ["fingerprint", "named", "processor", "timed"]

_HOUR = 3600.0
_LIFE, _BUSY_LIFE = 7 * 24 * _HOUR, _HOUR  # seconds: a wrong decision does not outlive them
_QUIET = 0.9  # the share of the time that its thread runs for where no other program has the processor
_ENVIRONMENT = ("BAYESPRUNE_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")


@cache
def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


@cache
def _sources() -> str:
    """A hash of the sparse half's code: a kernel that was changed is measured anew."""
    paths = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


@cache
def _compiler(limit: str | None) -> str:
    """Which LLVM makes code for which instructions; ``limit`` is BAYESPRUNE_ISA, which narrows them."""
    try:
        import llvmlite

        from bayesprune.sparse.native.host import host_isa
    except ImportError:
        return "none"
    return f"{llvmlite.__version__} {host_isa()}"


def named(device: torch.device) -> str:
    """The device as torch writes it, and a GPU's name.

    >>> named(torch.device("cpu"))
    'cpu'
    """
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _of_gpu(device: torch.device) -> tuple[str, ...]:
    """What times on a GPU depend on besides: its name, Triton's version, how torch multiplies float32."""
    if device.type != "cuda":
        return (device.type,)
    triton = version("triton") if find_spec("triton") else "none"
    return torch.cuda.get_device_name(device), triton, torch.backends.cuda.matmul.fp32_precision


def _told(part: object) -> str:
    if isinstance(part, Tensor):
        like = f"{part.dtype} {tuple(part.shape)} {part.stride()}"
        if part.dtype != torch.bool:
            return like
        bits = np.packbits(part.detach().cpu().contiguous().reshape(-1).numpy())
        return f"{like} {hashlib.sha256(bits.data).hexdigest()}"
    return f"{type(part).__module__} {part!r}" if isinstance(part, nn.Module) else repr(part)


def fingerprint(*about: object, device: torch.device) -> str:
    """A key that changes with all that times depend on: the machine, versions, settings of torch, and ``about``.

    Of a bool tensor each bit counts; of any other its dtype, shape and strides; of a module its ``repr``.

    >>> eye, cpu = torch.eye(2, dtype=torch.bool), torch.device("cpu")
    >>> fingerprint(eye, device=cpu) == fingerprint(~eye, device=cpu)
    False
    """
    machine = (processor(), os.cpu_count(), *_of_gpu(device))
    compiler = _compiler(os.environ.get("BAYESPRUNE_ISA"))
    versions = (torch.__version__, bayesprune.__version__, compiler, _sources())
    ways = (torch.get_num_threads(), torch.get_float32_matmul_precision(), *map(os.environ.get, _ENVIRONMENT))
    return hashlib.sha256(json.dumps([machine, versions, ways, *map(_told, about)]).encode()).hexdigest()


def _recall(path: Path, names: list[str]) -> tuple[dict[str, float], str] | None:
    """Seconds by name and when they were measured; None where they are not there, too old, or not to be believed."""
    try:
        entry = json.loads(path.read_bytes())
        seconds = {str(name): float(s) for name, s in entry["seconds"].items()}
        when, busy = float(entry["measured"]), bool(entry["busy"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    sound = list(seconds) == names and all(math.isfinite(s) and s > 0 for s in seconds.values())
    if not sound or not 0 <= time.time() - when < (_BUSY_LIFE if busy else _LIFE):
        return None
    return seconds, time.strftime("%Y-%m-%d", time.localtime(when)) + (" on a busy machine" if busy else "")


def _forget_old(folder: Path) -> None:
    try:
        for path in folder.glob("*.json"):
            if time.time() - path.stat().st_mtime > _LIFE:
                path.unlink(missing_ok=True)
    except OSError:
        pass


def timed(
    runners: Mapping[str, Callable[[], object]], *, about: tuple[object, ...], device: torch.device, cached: bool = True
) -> tuple[dict[str, float], str]:
    """:func:`bayesprune.sparse.timing.interleaved.time_interleaved`, or what that gave before.

    Before means: for the same runners' names and ``about``.

    What was measured is kept for 7 days under ``BAYESPRUNE_CACHE``; for an hour where other programs had the processor
    for more than a tenth of the time.

    Args:
        runners: see :func:`~bayesprune.sparse.timing.interleaved.time_interleaved`.
        about: what is timed: see :func:`fingerprint`.
        device: where.
        cached: False measures anew (and keeps that).

    Returns:
        Median seconds by name, and in words when they were measured, where that was before; else ``""``.
    """
    folder = cache_folder("plans")
    path = folder / f"{fingerprint(list(runners), *about, device=device)[:32]}.json"
    found = _recall(path, list(runners)) if cached else None
    if found is not None:
        return found
    start, ran = time.perf_counter(), time.thread_time()
    seconds = time_interleaved(runners, device=device)
    ran, passed = time.thread_time() - ran, time.perf_counter() - start
    busy = device.type == "cpu" and ran < _QUIET * passed
    _forget_old(folder)
    keep(path, json.dumps({"measured": time.time(), "busy": busy, "seconds": seconds}).encode())
    return seconds, ""
