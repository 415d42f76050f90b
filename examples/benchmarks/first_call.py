"""How long the first call of a packed layer takes: its kernel not yet compiled, and read from the disk.

    OMP_NUM_THREADS=1 python examples/benchmarks/first_call.py

Two new processes for each row, the second with the cache that the first has filled; imports of torch and bayesprune
are not counted, those of the compiler are. Beside each time, in brackets, the processor's own, which other programs do
not prolong. *again* is the median of later calls.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import bayesprune as bp
from bayesprune.sparse import SparseLinear
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.formats import Format
from bayesprune.sparse.layers.conv import SparseConv2d

LINEAR: tuple[tuple[Format, str, int], ...] = (
    *((bp.BSR(16, 16), "float32", tokens) for tokens in (1, 32, 256)),
    (bp.BSR(32, 32), "float32", 256),
    (bp.BSR(64, 64), "float32", 256),
    (bp.BSR(16, 1), "float32", 256),
    (bp.BSR(4, 4), "float32", 256),
    (bp.BSR(5, 3), "float32", 256),
    *((bp.CSR(), "float32", tokens) for tokens in (1, 256)),
    (bp.BSR(16, 16), "bfloat16", 256),
    (bp.BSR(16, 16), "float16", 256),
    *((bp.BSR(16, 16, bits=8), dtype, 256) for dtype in ("float32", "bfloat16")),
)
CONVOLUTIONS = ((64, 64, 3, 56), (256, 1024, 1, 14))  # inputs, outputs, side, pixels; BSR(16, 16), float32, one image


def random_mask(out: int, into: int, form: Format) -> torch.Tensor:
    h, w = (form.h, form.w) if isinstance(form, bp.BSR) else (1, 1)
    grid = torch.rand(-(-out // h), -(-into // w)) < 0.1
    return grid.repeat_interleave(h, 0).repeat_interleave(w, 1)[:out, :into]


def linear(form: Format, dtype: str, tokens: int, features: int) -> tuple[nn.Module, torch.Tensor]:
    weight = torch.randn(features, features, dtype=getattr(torch, dtype))
    packed = form.pack(weight, random_mask(features, features, form))
    x = torch.randn(tokens, features, dtype=weight.dtype)
    return SparseLinear(packed, torch.zeros(features, dtype=weight.dtype), "native", "gelu"), x


def convolution(inputs: int, outputs: int, side: int, pixels: int) -> tuple[nn.Module, torch.Tensor]:
    weight, form = torch.randn(outputs, side * side * inputs), bp.BSR(16, 16)
    packed = form.pack(weight, random_mask(*weight.shape, form))
    geometry = Geometry((side, side), padding=(side // 2, side // 2))
    x = torch.randn(1, inputs, pixels, pixels).contiguous(memory_format=torch.channels_last)
    return SparseConv2d(packed, torch.zeros(outputs), geometry, "native", "relu"), x


def rows(features: int) -> dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]]:
    """What makes each row's layer and its input."""
    layers = {
        f"{form} {dtype}, {n} token{'s' * (n != 1)}": partial(linear, form, dtype, n, features)
        for form, dtype, n in LINEAR
    }
    shown = {f"{side}×{side}, {i}→{o}, {pixels}²": (i, o, side, pixels) for i, o, side, pixels in CONVOLUTIONS}
    return layers | {name: partial(convolution, *sizes) for name, sizes in shown.items()}


def timed(layer: nn.Module, x: torch.Tensor) -> dict[str, float]:
    seconds, processor = [], time.process_time()
    with torch.no_grad():
        for call in range(20):
            start = time.perf_counter()
            layer(x)
            seconds.append(time.perf_counter() - start)
            if not call:
                processor = time.process_time() - processor
    return {"first": seconds[0], "processor": processor, "again": median(seconds[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=768, help="inputs and outputs of the linear layers")
    parser.add_argument("--row", type=int, help="time this row here and now, and print it as JSON")
    args = parser.parse_args()
    cases = rows(args.features)
    if args.row is not None:
        print(json.dumps(timed(*list(cases.values())[args.row]())))
        return
    table = Table(title=f"{args.features} × {args.features} with bias and activation: seconds of a call")
    for heading in ("layer", "first ever", "first, cache filled", "again"):
        table.add_column(heading, justify="left" if heading == "layer" else "right", no_wrap=True)
    for row, name in enumerate(cases):
        with tempfile.TemporaryDirectory() as cache:
            command = [sys.executable, __file__, "--features", str(args.features), "--row", str(row)]
            env = os.environ | {"BAYESPRUNE_CACHE": cache}
            done = [subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env) for _ in range(2)]
        ever, filled = (json.loads(process.stdout) for process in done)
        first = [f"{times['first']:.2f} ({times['processor']:.2f})" for times in (ever, filled)]
        table.add_row(name, *first, f"{filled['again']:.5f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
