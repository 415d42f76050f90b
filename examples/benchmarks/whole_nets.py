"""Whole nets with block masks against their dense selves and ONNX Runtime, end to end.

    OMP_NUM_THREADS=1 python examples/benchmarks/whole_nets.py

Blocks of 16 outputs × 16 inputs, uniformly at random, in every layer but the first and the last (LeNet-300-100: all
but the last). Dense nets and images are channels-last. What `bp.export` plans, with the times that are measured here.
Amdahl's bound takes each packed layer's own dense and sparse time, and all else as it is in the dense net.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import bayesprune as bp
from bayesprune import nets
from bayesprune.layout import layout_of
from bayesprune.sparse.bench.end_to_end import EndToEnd, compare
from bayesprune.sparse.layers.conv import channels_last
from bayesprune.sparse.timing.cache import processor

BLOCK = bp.Block(16, 16)


@dataclass(frozen=True)
class Case:
    """A net, the shape of one input, and the prefixes of the layers that stay dense."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    dense: tuple[str, ...]


CASES = {
    "LeNet-300-100": Case(nets.lenet_300_100, (784,), ("fc3",)),
    "MLP, 6 layers of 1,024": Case(lambda: nets.mlp(1024, (1024,) * 5, 1024), (1024,), ("fc1.", "fc6.")),
    "ResNet-18, 32×32": Case(nets.resnet18, (3, 32, 32), ("conv1.", "fc.")),
    "ViT-S/16, 224×224": Case(
        lambda: nets.vit(image=224, patch=16, dim=384, depth=12, heads=6, classes=1000),
        (3, 224, 224),
        ("patches.", "head.", "positions", "class_token"),
    ),
}


def random_masks(
    net: nn.Module, dense: tuple[str, ...], sparsity: float, pattern: bp.Block = BLOCK
) -> dict[str, torch.Tensor]:
    """Whole blocks, gone uniformly at random, in each matrix and convolution that is not to stay dense."""
    masks = {}
    for name, parameter in net.named_parameters():
        if parameter.dim() < 2 or name.startswith(dense):
            continue
        layout = layout_of(net, name)
        groups = torch.zeros(pattern.groups(layout), dtype=torch.bool)
        keep = max(1, round((1 - sparsity) * groups.numel()))
        groups.view(-1)[torch.randperm(groups.numel())[:keep]] = True
        masks[name] = pattern.expand(groups, layout).clone()
    return masks


def measure(case: Case, batch: int, sparsity: float, budget: float) -> EndToEnd:
    """Export the net and time it."""
    torch.manual_seed(0)
    net, x = case.make().eval(), torch.randn(batch, *case.shape)
    if x.dim() == 4:
        net, x = channels_last(net), x.contiguous(memory_format=torch.channels_last)
    masks = random_masks(net, case.dense, sparsity)
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).mul_(mask)
    return compare(bp.export(net, {}, masks, example=x), net, x, rivals=False, budget=budget)


def shares(found: EndToEnd) -> str:
    """Where the sparse net's time goes, in per cent."""
    times = found.spent["sparse"]
    whole = sum(times.values())
    return ", ".join(f"{kind} {t / whole:.0%}" for kind, t in times.items() if t >= 0.02 * whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", action="append", choices=list(CASES), help="one of the nets; may be given again")
    parser.add_argument("--batch", type=int, action="append", help="inputs at a time; may be given again")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=4.0, help="seconds for a net; each layer has a quarter")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table(title=f"{processor()}, torch {torch.__version__}, {args.threads} thread(s), {args.sparsity:.0%} gone")
    for heading in ("net", "batch", "dense", "ONNX Runtime", "sparse", "bound", "reached", "the sparse net's time"):
        table.add_column(heading)
    results = []
    for name in args.net or CASES:
        for batch in args.batch or (1, 64):
            print(f"{name}, batch {batch}", file=sys.stderr, flush=True)
            found = measure(CASES[name], batch, args.sparsity, args.budget)
            dense, runtime = found.seconds["dense"], found.seconds.get("onnxruntime dense")
            cells = (
                f"{dense * 1e3:,.2f} ms",
                "–" if runtime is None else f"{dense / runtime:.2f}×",
                f"{found.speedup:.2f}×",
                f"{found.bound:.2f}×",
                f"{found.speedup / found.bound:.0%}",
                shares(found),
            )
            table.add_row(name, str(batch), *cells)
            results.append({"net": name, "batch": batch, **found.to_dict()})
    if args.json:
        machine = {"processor": processor(), "torch": torch.__version__, "threads": args.threads}
        print(json.dumps({**machine, "sparsity": args.sparsity, "nets": results}, indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
