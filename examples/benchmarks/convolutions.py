"""Sparse convolutions against dense ones, channels-last, in turns.

    OMP_NUM_THREADS=1 python examples/benchmarks/convolutions.py

Blocks of 16 outputs × 16 channels at one kernel position, uniformly at random.
"""

import argparse
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from bayesprune.sparse import BSR
from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.timing.interleaved import time_interleaved

CASES = ((64, 64, 3, 56), (256, 256, 3, 14), (256, 1024, 1, 14))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, default=0.9)
    args = parser.parse_args()
    table = Table(title=f"{args.sparsity:.0%} of 16×16 blocks gone, {torch.get_num_threads()} thread(s)")
    for heading in ("convolution", "images", "dense", "sparse", "speed-up", "largest error"):
        table.add_column(heading)
    for inputs, outputs, side, pixels in CASES:
        for images in (1, 8):
            torch.manual_seed(0)
            dense = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
            rows, columns = outputs // 16, side * side * inputs // 16
            kept = round((1 - args.sparsity) * rows * columns)
            grid = (torch.randperm(rows * columns) < kept).view(rows, columns)
            mask = grid.repeat_interleave(16, 0).repeat_interleave(16, 1)
            matrix = dense.weight.detach().permute(0, 2, 3, 1).reshape(outputs, -1) * mask
            dense.weight.data = matrix.view(outputs, side, side, inputs).permute(0, 3, 1, 2)
            dense = dense.to(memory_format=torch.channels_last)
            geometry = Geometry((side, side), padding=(side // 2, side // 2))
            sparse = SparseConv2d(BSR(16, 16).pack(matrix, mask), None, geometry, "native")
            x = torch.randn(images, inputs, pixels, pixels).contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                error = float((sparse(x) - dense(x)).abs().max())
                ways = {"dense": partial(dense, x), "sparse": partial(sparse, x)}
                seconds = time_interleaved(ways, device=x.device, budget=2.0, rounds=300, sample=1e-3)
            name = f"{side}×{side}, {inputs}→{outputs}, {pixels}²"
            times = [f"{seconds[way] * 1e6:,.0f} µs" for way in ("dense", "sparse")]
            ratio = f"{seconds['dense'] / seconds['sparse']:.2f}×"
            table.add_row(name, str(images), *times, ratio, f"{error:.1e}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
