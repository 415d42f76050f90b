"""Whole nets: dense against what ``bp.export`` makes of them on the GPU, called outside and inside a CUDA graph."""

import time
import warnings
from functools import partial
from itertools import product
from typing import Any

import torch
from whole_nets import CASES, Case, random_masks

import bayesprune as bp
from bayesprune import nets
from bayesprune.sparse.layers.conv import channels_last
from on_gpu.clock import GRAPH, Clock, Way, failure, largest_error
from on_gpu.results import Results

__all__ = ["run"]

_NETS = ("ViT-S/16, 224×224", "ResNet-18, 32×32")
_TINY = {
    "ViT": Case(
        lambda: nets.vit(image=8, patch=4, dim=32, depth=1, heads=2), (3, 8, 8), ("patches.", "head.", "pos", "class_")
    ),
    "ResNet": Case(lambda: nets.resnet18(width=16), (3, 8, 8), ("conv1.", "fc.", "layer2", "layer3", "layer4")),
}
_SPARSITY = 0.9


def _measure(cell: dict[str, Any], clock: Clock, budget: float) -> dict[str, Any]:
    case = (_TINY if clock.rehearsal else CASES)[cell["net"]]
    dtype, pattern = getattr(torch, cell["dtype"]), bp.Block(*cell["block"])
    torch.manual_seed(0)
    net, x = case.make().eval(), torch.randn(cell["batch"], *case.shape)
    masks = {name: mask.to(clock.device) for name, mask in random_masks(net, case.dense, _SPARSITY, pattern).items()}
    net = channels_last(net.to(clock.device, dtype))
    x = x.to(clock.device, dtype, memory_format=torch.channels_last)
    for name, mask in masks.items():
        net.get_parameter(name).mul_(mask)
    forced = {"*": bp.BSR(*cell["block"])} if clock.rehearsal else None  # nets this small would stay dense
    plan = bp.plan(net, masks, example=x, formats=forced)
    sparse = bp.export(net, {}, masks, example=x, plan=plan)
    exact = net.double()(x.double())
    net.to(dtype)
    told: dict[str, dict[str, Any]] = {}
    ready: dict[str, Way] = {}
    for name, way in (("dense", partial(net, x)), ("sparse", partial(sparse, x))):
        told[name], told[name + GRAPH] = {"error_of_float64": largest_error(way(), exact)}, {}
        ready[name] = way
        try:
            ready[name + GRAPH] = clock.captured(way)
        except Exception as error:  # it stands in the table
            told[name + GRAPH]["error"] = failure(error)
    for name, times in clock.race(ready, budget=budget, device=False).items():
        told[name] |= times
    packed = [choice for choice in plan.choices.values() if choice.kernel]
    why = {name: choice.reason for name, choice in plan.choices.items()}
    kernels = sorted({choice.kernel for choice in packed})
    chosen = {"packed": len(packed), "masked": len(masks), "kernels": kernels}
    return {**cell, **chosen, "ways": told, "reasons": None if clock.rehearsal else why}


def run(results: Results, clock: Clock, until: float) -> None:
    """Two nets at two batches in three dtypes; none is begun that the last one's time would not allow."""
    dtypes = ("bfloat16", "float16", "float32")
    grid = product(dtypes[2:], _TINY, (1,)) if clock.rehearsal else product(dtypes, _NETS, (64, 1))
    block = [16, 16] if clock.rehearsal else [64, 16]
    wanted = [{"net": net, "batch": n, "dtype": dtype, "block": block} for dtype, net, n in grid]
    todo, took = results.missing("nets", wanted), 0.0
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(beta|prototype) |.* is slower than dense")
        while todo and time.monotonic() + took < until:
            cell, started = todo.pop(0), time.monotonic()
            try:
                results.add("nets", _measure(cell, clock, 4.0))
            except Exception as error:  # likewise: the other nets go on
                results.add("nets", {**cell, "ways": {}, "error": failure(error)})
            results.save()
            took = time.monotonic() - started
    results.note("nets", f"{len(todo)} of {len(wanted)} are not measured yet" if todo else None)
