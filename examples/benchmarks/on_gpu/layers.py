"""One weight at a time: cuBLAS, torch's BSR, 2:4 and ours, over tokens, blocks and sparsities."""

import time
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import groupby, product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.sparse import BSR, SparseLinear
from bayesprune.sparse.bench.products import Setting, random_mask
from bayesprune.sparse.formats import SemiStructured
from bayesprune.sparse.kernels import KERNELS
from on_gpu.bounds import Bound, Peaks, Shape, block_bound, dense_bound
from on_gpu.clock import GRAPH, Clock, Way, failure, largest_error
from on_gpu.compiling import compile_ahead
from on_gpu.results import Results

__all__ = ["FULL", "KERNEL", "TINY", "cells", "run"]

KERNEL = "triton"
KERNELS_OF = {"ours": KERNEL, "torch BSR, padded": "torch_bsr", "2:4": "cusparselt"}
_COMPILING = 0.3  # of the part's time at most
FULL: dict[str, list[Any]] = {  # the first come first: what time does not allow falls off the end
    "dtype": ["bfloat16", "float16"],
    "weight": [[4096, 4096], [4096, 11008]],
    "block": [[64, 64], [16, 16], [128, 128], [32, 32], [64, 16], [64, 1], [16, 1]],
    "sparsity": [0.9, 0.95, 0.8],
    "tokens": [2**n for n in range(14)],
}
TINY: dict[str, list[Any]] = {
    "dtype": ["bfloat16", "float16"],
    "weight": [[64, 64]],
    "block": [[16, 16], [64, 1]],
    "sparsity": [0.5],
    "tokens": [1, 24],
}


def cells(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination, in the order of their weight."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


class _Weight:
    """A weight, its rivals' forms of it, and float64's result: what its cells share."""

    def __init__(self, cell: dict[str, Any], most: int, clock: Clock) -> None:
        (out, into), (h, w) = cell["weight"], cell["block"]
        self.dtype = getattr(torch, cell["dtype"])
        setting = Setting(out, into, most, cell["sparsity"], BSR(h, w), self.dtype)
        generator = torch.Generator(clock.device).manual_seed(0)
        draw = partial(torch.randn, generator=generator, device=clock.device)
        mask = random_mask(setting).to(clock.device)
        whole = (draw(out, into) * into**-0.5).to(self.dtype)
        self.dense = whole * mask
        self.x = draw(most, into).to(self.dtype)
        self.truth = self.x.double() @ self.dense.double().T
        packed = setting.form.pack(whole, mask)
        self.blocks = packed.values.shape[0]
        two_of_four = (whole.view(out, -1, 4).abs().argsort(2, descending=True).argsort(2) < 2).view(out, into)
        self.halved = whole * two_of_four
        forms = {"ours": packed, "torch BSR, padded": packed, "2:4": SemiStructured().pack(whole, two_of_four)}
        self.layers = {name: SparseLinear(form, None, KERNELS_OF[name]) for name, form in forms.items()}

    def layer(self, name: str) -> SparseLinear:
        """That layer. Raises ``ValueError`` where its kernel does not take it: no other kernel is to be timed."""
        layer = self.layers[name]
        if not KERNELS[layer.kernel].takes(layer.sparse_weight, self.dtype):
            raise ValueError(f"the kernel {layer.kernel!r} does not take this weight here")
        return layer

    @cached_property
    def torch_bsr(self) -> Tensor:
        """torch's own tensor, made beforehand."""
        return self.layers["ours"].sparse_weight.to_torch()


def _ways(weight: _Weight, cell: dict[str, Any], x: Tensor, clock: Clock) -> Iterator[tuple[str, Callable[[], Way]]]:
    """By name, what makes each way ready."""
    yield "cuBLAS", lambda: partial(F.linear, x, weight.dense)
    yield "ours", lambda: partial(weight.layer("ours"), x)
    yield "torch BSR", lambda: partial(F.linear, x, weight.torch_bsr)
    if cell["tokens"] % cell["block"][0]:  # else the two are one
        yield "torch BSR, padded", lambda: partial(weight.layer("torch BSR, padded"), x)
    yield "2:4", lambda: partial(weight.layer("2:4"), x)
    yield "cuBLAS" + GRAPH, lambda: clock.captured(partial(F.linear, x, weight.dense))
    yield "ours" + GRAPH, lambda: clock.captured(partial(weight.layer("ours"), x))


def _bounds(bound: Bound) -> dict[str, Any]:
    times = {name: getattr(bound, name) * 1e6 for name in ("memory", "arithmetic", "l2")}
    return {"bound_us": bound.seconds * 1e6, "limit": bound.limit, "limits_us": times}


def _measure(
    cell: dict[str, Any], weight: _Weight, clock: Clock, peaks: Peaks | None, ran: dict[str, str], budget: float
) -> dict[str, Any]:
    tokens, (out, into) = cell["tokens"], cell["weight"]
    x, truth = weight.x[:tokens], weight.truth[:tokens]
    ready: dict[str, Way] = {}
    told: dict[str, dict[str, Any]] = {}
    for name, prepare in _ways(weight, cell, x, clock):
        told[name] = {}
        try:
            way = prepare()
            exact = x.double() @ weight.halved.double().T if name == "2:4" else truth
            told[name]["error_of_float64"] = largest_error(way(), exact)
            if name == "torch BSR":
                key = f"{cell['dtype']} {cell['block']} {tokens}"
                told[name]["ran"] = ran[key] = ran.get(key) or clock.what_ran(way)
        except Exception as error:  # a rival's, of whatever kind, or ours: it stands in the table
            told[name]["error"] = failure(error)
            if not clock.rehearsal:
                torch.cuda.synchronize()  # an error that the device does not recover from ends the run here
            continue
        ready[name] = way
    for name, times in clock.race(ready, budget=budget).items():
        told[name] |= times
    record = {**cell, "blocks": weight.blocks, "ways": told}
    if peaks is not None:
        shape = Shape(out, into, tokens, weight.dtype.itemsize)
        sparse = block_bound(shape, (cell["block"][0], cell["block"][1]), weight.blocks, peaks)
        record |= _bounds(sparse) | {"dense_bound_us": dense_bound(shape, peaks).seconds * 1e6}
        ours = told["ours"].get("device_us")
        record["of_bound"] = sparse.seconds * 1e6 / ours[1] if ours else None
    return record


def run(results: Results, clock: Clock, peaks: Peaks | None, until: float) -> None:
    """Fill in the cells that are missing, until the time ``until``; those of a weight are saved together."""
    grid = TINY if clock.rehearsal else FULL
    todo = results.missing("layers", cells(grid))
    left, ran = len(todo), dict[str, str]()
    now = time.monotonic()
    results.data["runs"][-1]["compiled"] = compile_ahead(todo, clock.device, now + _COMPILING * (until - now))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(beta|prototype) ")  # torch says so of its sparse layouts
        for _, group in groupby(todo, key=lambda cell: [cell[k] for k in grid if k != "tokens"]):
            own = list(group)
            if time.monotonic() > until:
                break
            weight = _Weight(own[0], max(grid["tokens"]), clock)
            for cell in own:
                remaining = until - time.monotonic()
                if remaining < 0:
                    break
                budget = max(0.1, min(0.5, 0.6 * remaining / left))
                try:
                    results.add("layers", _measure(cell, weight, clock, peaks, ran, budget))
                except RuntimeError as error:  # of the device: saved, so that the next run passes this cell over
                    results.add("layers", {**cell, "ways": {}, "error": failure(error)})
                    results.save()
                    raise
                left -= 1
            results.save()
    results.note("layers", f"{left} of {len(cells(grid))} cells are not measured yet" if left else None)
