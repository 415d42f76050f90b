"""The memory that packing takes and that a packed layer keeps, as the operating system counts it. Linux.

    OMP_NUM_THREADS=1 python examples/benchmarks/memory.py

A process for each row. *packing* and *export* are the most resident memory during ``format.pack(weight, mask)`` or
``bp.export(net, {}, masks, …)``, result included, less what was resident before, when the dense weight and its mask
were already there; in dense weights. The export packs and times every candidate that the mask allows (8 bits are asked
for). *kept* is what stays resident after packing, and *module* the memory under the exported layer's tensors; in bytes
of its values and indices. Blocks gone uniformly at random.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.sparse.formats import Format, SparseWeight
from bayesprune.sparse.saving.file import nbytes

FORMATS: dict[str, Format] = {
    str(form): form
    for form in (bp.BSR(16, 16), bp.BSR(32, 32), bp.BSR(16, 1), bp.CSR(), bp.BSR(16, 16, bits=8), bp.CSR(bits=8))
}


def resident(key: str) -> int:
    """``VmRSS``, resident now, or ``VmHWM``, the most since the last reset; bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def settle() -> int:
    """Give back what is free, begin to count the peak anew, and say what is resident."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def watched(make: Callable[[], object]) -> tuple[object, float, int, int]:
    """What ``make`` makes, the seconds, and by how much resident memory rose: at most, and in the end."""
    before = settle()
    start = time.perf_counter()
    made = make()
    seconds, most = time.perf_counter() - start, resident("VmHWM") - before
    return made, seconds, most, settle() - before


def random_mask(size: int, form: Format, sparsity: float) -> Tensor:
    h, w = (form.h, form.w) if isinstance(form, bp.BSR) else (1, 1)
    grid = torch.rand(-(-size // h), -(-size // w)) >= sparsity
    return grid.repeat_interleave(h, 0).repeat_interleave(w, 1)[:size, :size].contiguous()


def exported(net: nn.Sequential, mask: Tensor, form: Format) -> nn.Module:
    formats = {"*": form} if getattr(form, "bits", None) else None
    x = torch.ones(1, mask.shape[1], dtype=net[0].weight.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this format is slower than dense here is not the question
        return bp.export(net, {}, {"0.weight": mask}, example=x, formats=formats)


def held(module: nn.Module) -> int:
    """The memory under the module's tensors, which may be more than they show of it."""
    storages = [t.untyped_storage() for t in (*module.parameters(), *module.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def measure(size: int, form: Format, sparsity: float, dtype: torch.dtype) -> dict[str, float]:
    torch.manual_seed(0)
    exported(nn.Sequential(nn.Linear(64, 64, dtype=dtype)), random_mask(64, form, 0.5), form)  # load what code it needs
    net = nn.Sequential(nn.Linear(size, size, bias=False, dtype=dtype, device="meta"))
    net[0].weight = nn.Parameter(torch.empty(size, size, dtype=dtype).normal_())
    weight, mask = net[0].weight.detach(), random_mask(size, form, sparsity)
    packed, seconds, most, stays = watched(lambda: form.pack(weight, mask))
    assert isinstance(packed, SparseWeight)
    row = {"packed": packed.nbytes, "packing": most / weight.nbytes, "seconds": seconds, "kept": stays / packed.nbytes}
    del packed
    sparse, seconds, most, _ = watched(lambda: exported(net, mask, form))
    assert isinstance(sparse, nn.Module)
    row |= {"export": most / weight.nbytes, "export_seconds": seconds}
    return row | {"module": held(sparse) / nbytes(sparse)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16384)
    parser.add_argument("--sparsity", type=float, default=0.95)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--format", choices=FORMATS, action="append", help="may be repeated; all of them without")
    parser.add_argument("--json", action="store_true", help="one JSON line a format, and no table")
    args = parser.parse_args()
    names = args.format or list(FORMATS)
    if args.json and len(names) == 1:
        measured = measure(args.size, FORMATS[names[0]], args.sparsity, getattr(torch, args.dtype))
        print(json.dumps({"format": names[0]} | measured))
        return
    title = f"{args.size:,} × {args.size:,} {args.dtype}, {args.sparsity:.0%} gone; dense weights, or bytes kept"
    table = Table(title=title)
    for heading in ("format", "packed", "packing", "seconds", "kept", "export", "seconds", "module"):
        table.add_column(heading, justify="left" if heading == "format" else "right", no_wrap=True)
    for name in names:
        own = ["--size", str(args.size), "--sparsity", str(args.sparsity), "--dtype", args.dtype]
        command = [sys.executable, __file__, *own, "--format", name, "--json"]
        with tempfile.TemporaryDirectory() as cache:  # a plan made before would have nothing left to time
            env = os.environ | {"BAYESPRUNE_CACHE": cache}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
        if args.json:
            print(done.stdout, end="")
            continue
        r = json.loads(done.stdout)
        packing = f"{r['packing']:.2f}×", f"{r['seconds']:.1f}", f"{r['kept']:.2f}×"
        export = f"{r['export']:.2f}×", f"{r['export_seconds']:.1f}", f"{r['module']:.2f}×"
        table.add_row(name, f"{r['packed'] / 2**20:,.0f} MiB", *packing, *export)
    if not args.json:
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
