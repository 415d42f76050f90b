"""Compile what the cells will race, on all of the host's cores: Triton finds it on disk, and the GPU waits less."""

import os
import time
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from typing import Any

import torch

from on_gpu.clock import failure

__all__ = ["compile_ahead", "compile_cells"]


def compile_cells(cells: list[dict[str, Any]], device: str) -> int:
    """Compile all that the tuning of these cells will try, and run nothing; returns how often a kernel was asked for.

    For a process that does nothing else: launching compiles from then on. Of tensors, only what Triton compiles for
    counts (dtypes, sizes, addresses), so that nothing is written into them.
    """
    from bayesprune.sparse.formats import BSR, Operands
    from bayesprune.sparse.gpu import launch, tuning

    asked = []

    def compiled(call: launch.Launch, programs: int, tensors: tuple[Any, ...], numbers: tuple[int, ...]) -> None:
        asked.append(call.kernel.warmup(*tensors, *numbers, grid=(programs,), **call.constants, **call.options))

    def each_once(
        problem: tuning.Problem, device: torch.device, prepare: Callable[[tuning.Config], Callable[[], object]]
    ) -> tuple[tuning.Config, bool]:
        """In place of a race."""
        found = tuning.candidates(problem)
        for config in found:
            prepare(config)()
        return found[0], True

    launch.choose = each_once  # type: ignore[attr-defined]
    launch.Launch.__call__ = compiled  # type: ignore[method-assign, assignment]
    for cell in cells:
        (out, into), (h, w), dtype = cell["weight"], cell["block"], getattr(torch, cell["dtype"])
        rows, tokens = -(-out // h), cell["tokens"]
        blocks = max(1, round((1 - cell["sparsity"]) * rows * -(-into // w)))
        values = torch.empty(blocks, w, h, dtype=dtype, device=device)
        crow, col = (torch.empty(n, dtype=torch.int32, device=device) for n in (rows + 1, blocks))
        x = torch.empty(tokens, into, dtype=dtype, device=device)
        launch.linear(x, Operands(values, crow, col, None, None, (out, into), "", BSR(h, w)))
    return len(asked)


def compile_ahead(cells: Iterable[dict[str, Any]], device: torch.device, until: float) -> str:
    """Share out the cells by dtype and block among processes until the time ``until``; returns what came of it."""
    shares: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        shares.setdefault(f"{cell['dtype']} {cell['block']}", []).append(cell)
    if not shares:
        return "nothing to compile"
    started, made, failed = time.monotonic(), 0, list[str]()
    workers = max(1, min(len(shares), (os.cpu_count() or 2) - 1))
    with get_context("spawn").Pool(workers) as pool:  # ends its processes in the end: they would disturb the clock
        asked = [pool.apply_async(compile_cells, (own, str(device))) for own in shares.values()]
        for share in asked:
            try:
                made += share.get(timeout=max(0.1, until - time.monotonic()))
            except Exception as error:  # what fails here is compiled when it is met, and fails there if it must
                failed.append(failure(error))
    late = f"; {len(failed)} of {len(shares)} shares did not end: {failed[0]}" if failed else ""
    return f"{made} calls compiled ahead in {time.monotonic() - started:.0f} s{late}"
