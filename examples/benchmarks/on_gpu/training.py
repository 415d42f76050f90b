"""The training step: Sparse VD against the dense net's, both with fused Adam, no CUDA graph."""

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import bayesprune as bp
from bayesprune import nets
from on_gpu.clock import Clock, Way
from on_gpu.results import Results

__all__ = ["run"]

_SIZE = 60_000  # examples that the data set is said to have
_NETS: dict[str, Callable[[], nn.Module]] = {
    "LeNet-300-100": nets.lenet_300_100,
    "MLP, 784-2048³-10": lambda: nets.mlp(784, (2048,) * 3, 10),
}


def _dense_step(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Way:
    optimizer = torch.optim.Adam(net.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def _vd_step(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Way:
    from bayesprune.fitting.elbo import MeanFieldELBO

    bnet = bp.BayesianNet(net, {"*.weight": bp.SparseVD()})
    bound = MeanFieldELBO()(bp.classify(bnet, size=_SIZE), bnet.guide).to(x.device)
    optimizer = torch.optim.Adam(bound.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        (bound(x, y) / _SIZE).backward()
        optimizer.step()

    return step


def run(results: Results, clock: Clock, until: float) -> None:
    """Two nets at two batches, float32."""
    if find_spec("pyro") is None:
        results.note("training", "left out: it needs Pyro, which is not installed here (pip install pyro-ppl)")
        return
    batches = (8,) if clock.rehearsal else (256, 1024)
    names = list(_NETS)[:1] if clock.rehearsal else list(_NETS)
    wanted = [{"net": net, "batch": n, "dtype": "float32"} for net in names for n in batches]
    todo = results.missing("training", wanted)
    while todo and time.monotonic() < until:
        cell = todo.pop(0)
        torch.manual_seed(0)
        x = torch.randn(cell["batch"], 784, device=clock.device)
        y = torch.randint(0, 10, (cell["batch"],), device=clock.device)
        make = _NETS[cell["net"]]
        ways = {
            "dense": _dense_step(make().to(clock.device), x, y),
            "SparseVD": _vd_step(make().to(clock.device), x, y),
        }
        budget = max(2.0, min(10.0, (until - time.monotonic()) / (len(todo) + 1)))
        times: dict[str, Any] = clock.race(ways, budget=budget, most=50, device=False)
        results.add("training", {**cell, "ways": times})
        results.save()
    results.note("training", f"{len(todo)} of {len(wanted)} are not measured yet" if todo else None)
