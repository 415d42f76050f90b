"""What a call costs the host outside a graph, and where it goes: handed over one after the other, never waited for."""

import cProfile
import pstats
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.sparse import BSR, SparseLinear
from bayesprune.sparse.bench.products import Setting, random_mask
from bayesprune.sparse.kernels import KERNELS
from bayesprune.sparse.kernels.ops import sparse_linear
from on_gpu.clock import Clock, Way, failure
from on_gpu.layers import KERNEL
from on_gpu.results import Results

__all__ = ["run"]

_PROFILED = 1000  # calls under the profiler


def _profiled(way: Way, calls: int) -> list[dict[str, Any]]:
    """The functions that take the most time of their own, in µs a call; a profiler makes all of them slower."""
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(calls):
        way()
    profile.disable()
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    slowest = sorted(stats.items(), key=lambda item: -item[1][2])[:15]
    return [
        {"function": f"{Path(file).name}:{line} {name}".removeprefix("~:0 "), "own_us": of[2] / calls * 1e6}
        for (file, line, name), of in slowest
    ]


def _ways(cell: dict[str, Any], clock: Clock) -> dict[str, Callable[[], Way]]:
    size, (h, w), dtype = cell["size"], cell["block"], getattr(torch, cell["dtype"])
    setting = Setting(size, size, cell["tokens"], 0.9, BSR(h, w), dtype)
    weight = torch.randn(size, size, device=clock.device).to(dtype)
    x = torch.randn(cell["tokens"], size, device=clock.device).to(dtype)
    packed = setting.form.pack(weight, random_mask(setting).to(clock.device))
    layer, kernel = SparseLinear(packed, None, KERNEL), KERNELS[KERNEL]
    dense = nn.Linear(size, size, bias=False, device=clock.device, dtype=dtype)
    arguments = (layer.values, layer.crow, layer.col, None, None, size, size, str(packed.format), KERNEL, "")
    return {  # what makes each ready
        "layer(x)": lambda: partial(layer, x),
        "layer.forward(x)": lambda: partial(layer.forward, x),
        "the kernel, called directly": lambda: partial(kernel.run_fused, x, layer._operands()),
        "the result's memory": lambda: partial(x.new_empty, (cell["tokens"], size)),
        "the custom op": lambda: partial(sparse_linear, x, *arguments),
        "replay of a graph": lambda: clock.captured(partial(layer, x)),
        "nn.Linear": lambda: partial(dense, x),
        "F.linear": lambda: partial(F.linear, x, dense.weight),
        "F.linear, torch BSR": lambda: partial(F.linear, x, layer.format.to_torch(packed)),
    }


def _measure(cell: dict[str, Any], clock: Clock) -> dict[str, Any]:
    told: dict[str, Any] = {}
    functions: list[dict[str, Any]] | None = None
    for name, prepare in _ways(cell, clock).items():
        try:
            way = prepare()
            seconds = clock.host(way)
            if name == "layer(x)" and not clock.rehearsal:
                functions = _profiled(way, _PROFILED)
        except Exception as error:  # of whatever kind: it stands in the table
            told[name] = {"error": failure(error)}
            continue
        told[name] = {"host_us": None if seconds is None else seconds * 1e6}
    where: dict[str, float] | None = None
    parts = [told[name].get("host_us") for name in list(told)[:4]]
    if None not in parts:
        whole, forward, kernel, memory = parts
        where = {
            "nn.Module's __call__": whole - forward,
            "checks and the choice of a way": forward - kernel,
            "the result's memory": memory,
            "launch": kernel - memory,
        }
    return {**cell, "ways": told, "where_us": where, "profile": functions}


def run(results: Results, clock: Clock, until: float) -> None:
    """At 1 and at 32 tokens, 64×64 blocks, bf16."""
    size, block = (64, [16, 16]) if clock.rehearsal else (4096, [64, 64])
    wanted = [{"tokens": n, "size": size, "block": block, "dtype": "bfloat16"} for n in (1, 32)]
    todo = results.missing("host", wanted)
    with torch.no_grad():
        while todo and time.monotonic() < until:
            results.add("host", _measure(todo.pop(0), clock))
            results.save()
    results.note("host", f"{len(todo)} of {len(wanted)} are not measured yet" if todo else None)
