"""Nets whose empty channels and heads are removed: FLOPs, bytes and latency, against the dense net.

    OMP_NUM_THREADS=1 python examples/benchmarks/compact.py

Masks gone at random, one decision for all weights that write into one residual stream, or for the two convolutions
around a depthwise or grouped one (there whole groups go). The net's input, its logits and whatever a LayerNorm counts
on stay, so that the removed share of the FLOPs says what the architecture lets go. Dense and compact take turns, in
torch's eager mode and in ONNX Runtime; both are plain nets.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial

import architectures
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import nets
from bayesprune.layout import layout_of
from bayesprune.sparse.bench.end_to_end import in_onnx_runtime
from bayesprune.sparse.bench.flops import flops
from bayesprune.sparse.compact import compact
from bayesprune.sparse.timing.cache import processor
from bayesprune.sparse.timing.interleaved import time_interleaved

HEADS = {
    nn.MultiheadAttention: ("in_proj_weight", "out_proj.weight"),
    architectures.OwnAttention: ("qkv.weight", "proj.weight"),
}
STREAMS = tuple((f"layer{s}.0.shortcut.conv.weight", f"layer{s}.?.conv2.weight") for s in (2, 3, 4))


@dataclass(frozen=True)
class Case:
    """A net and what may go in it.

    Args:
        make: it takes no argument.
        shape: of one input.
        alone: globs of weights whose outputs go each by a decision of its own.
        together: globs of weights whose outputs go by one decision.
        grouped: the same, where whole convolution groups go.
        heads: how many heads an attention in it has; 0 where it has none.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    alone: tuple[str, ...] = ()
    together: tuple[tuple[str, ...], ...] = ()
    grouped: dict[tuple[str, ...], int] = field(default_factory=dict)
    heads: int = 0


CASES = {
    "ResNet-18, 32×32": Case(
        nets.resnet18,
        (3, 32, 32),
        alone=("layer*.conv1.weight",),
        together=(("conv1.weight", "layer1.?.conv2.weight"), *STREAMS),
    ),
    "ResNet-18, 224×224": Case(
        architectures.resnet18_imagenet,
        (3, 224, 224),
        alone=("*.conv1.weight",),
        together=(
            ("0.weight", "4.conv2.weight", "5.conv2.weight"),
            *((f"{i}.shortcut.conv.weight", f"{i}.conv2.weight", f"{i + 1}.conv2.weight") for i in (6, 8, 10)),
        ),
    ),
    "VGG-like, 32×32": Case(nets.vgg_like, (3, 32, 32), alone=("conv*.weight", "fc1.weight")),
    "MobileNetV2 and ResNeXt blocks, 32×32": Case(
        partial(architectures.mobile_resnext, width=64, groups=16),
        (3, 32, 32),
        together=(
            ("0.weight", "3.layers.6.weight"),
            ("4.layers.6.weight", "5.layers.6.weight"),
            ("6.conv3.weight", "6.shortcut.0.weight", "7.conv3.weight"),
            *((f"{i}.layers.0.weight", f"{i}.layers.3.weight") for i in (3, 4, 5)),
        ),
        grouped={(f"{i}.conv1.weight", f"{i}.conv2.weight"): 16 for i in (6, 7)},
    ),
    "DenseNet, 32×32": Case(
        partial(architectures.densenet, growth=32, layers=(6, 6, 6)),
        (3, 32, 32),
        alone=("stem.weight", "dense*.weight", "narrow*.weight"),
    ),
    "ViT-S/16, 224×224": Case(
        partial(nets.vit, image=224, patch=16, dim=384, depth=12, heads=6, classes=1000),
        (3, 224, 224),
        alone=("*.fc1.weight",),
        heads=6,
    ),
    "ViT-S/16 with attention of its own, 224×224": Case(
        partial(architectures.OwnViT, 224, 16, 384, 12, 6, 1000), (3, 224, 224), alone=("*.mlp.0.weight",), heads=6
    ),
    "nn.TransformerEncoder, 128 tokens of 256": Case(
        architectures.encoder, (128, 256), alone=("*.linear1.weight",), heads=8
    ),
}


def kept(count: int, gone: float) -> Tensor:
    """Which of ``count`` stay, at random, at least one."""
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.randperm(count)[: max(1, round((1 - gone) * count))]] = True
    return mask


def decisions(net: nn.Module, case: Case) -> Iterator[tuple[list[str], int]]:
    """The weights of one decision, and how many things it is about."""
    names = [name for name, x in net.named_parameters() if x.dim() > 1]
    rows = {name: net.get_parameter(name).shape[0] for name in names}
    for name in names:
        if any(fnmatchcase(name, glob) for glob in case.alone):
            yield [name], rows[name]
    for globs in (*case.together, *case.grouped):
        found = [name for name in names if any(fnmatchcase(name, glob) for glob in globs)]
        assert len({rows[name] for name in found}) == 1, globs
        yield found, case.grouped.get(globs, rows[found[0]])


def random_masks(net: nn.Module, case: Case, gone: float) -> dict[str, Tensor]:
    """Masks that empty the share ``gone`` of the channels and heads that may go."""
    masks = {}
    for names, count in decisions(net, case):
        mask = kept(count, gone)
        for name in names:
            weight = net.get_parameter(name)
            rows = mask.repeat_interleave(weight.shape[0] // count)
            masks[name] = rows.view(-1, *[1] * (weight.dim() - 1)).expand(weight.shape).clone()
    for path, module in net.named_modules():
        into, out = HEADS.get(type(module), ("", ""))
        if into:
            stay = kept(case.heads, gone)
            for name, side, packed in ((f"{path}.{into}", "out", 3), (f"{path}.{out}", "in", 1)):
                pattern = bp.Heads(case.heads, side=side, packed=packed)
                masks[name] = pattern.expand(stay, layout_of(net, name)).clone()
    return masks


def as_trained(net: nn.Module) -> nn.Module:
    """``net`` in eval mode with biases and statistics that are not 0 and 1."""
    with torch.no_grad():
        for x in (*net.parameters(), *net.buffers()):
            if x.dim() == 1 and x.is_floating_point():
                x.add_(0.1 * torch.rand_like(x))
    return net.eval()


def measure(case: Case, batch: int, gone: float, budget: float, runtime: bool) -> dict[str, object]:
    """Make it smaller and time it beside the dense net."""
    torch.manual_seed(0)
    net, x = as_trained(case.make()), torch.randn(batch, *case.shape)
    masks = random_masks(net, case, gone)
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).mul_(mask)
        small = compact(net, {}, masks, example=x).net
        expected, made = net(x), small(x)
        ways: dict[str, Callable[[], object]] = {"dense": partial(net, x), "compact": partial(small, x)}
        for name, one in (("dense", net), ("compact", small)) if runtime else ():
            way = in_onnx_runtime(one, x, torch.get_num_threads())
            ways |= {f"onnxruntime {name}": way} if way else {}
        seconds = time_interleaved(ways, device=x.device, budget=budget, rounds=200, sample=1e-3, give_up=float("inf"))
    return {
        "weights": [sum(p.numel() for p in one.parameters()) for one in (net, small)],
        "bytes": [bp.sparse.nbytes(one) for one in (net, small)],
        "flops": [flops(one, x) for one in (net, small)],
        "seconds": seconds,
        "apart": float((expected - made).abs().max() / expected.abs().max()),
    }


def cells(found: dict) -> list[str]:
    """A row of the table."""
    seconds = found["seconds"]
    pairs = [("dense", "compact"), ("onnxruntime dense", "onnxruntime compact")]
    flop, size = (before / after for before, after in (found["flops"], found["bytes"]))
    told = [f"{found['flops'][0] / 1e9:,.2f} → {found['flops'][1] / 1e9:,.2f}", f"{flop:.2f}×"]
    told += [f"{found['bytes'][0] / 2**20:,.1f} → {found['bytes'][1] / 2**20:,.1f}", f"{size:.2f}×"]
    for dense, small in pairs:
        if small in seconds:
            told += [
                f"{seconds[dense] * 1e3:,.2f} → {seconds[small] * 1e3:,.2f}",
                f"{seconds[dense] / seconds[small]:.2f}×",
            ]
        else:
            told += ["–", "–"]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", action="append", choices=list(CASES), help="one of the nets; may be given again")
    parser.add_argument("--gone", type=float, action="append", help="share of the channels; may be given again")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for a net")
    parser.add_argument("--no-runtime", dest="runtime", action="store_false", help="leave ONNX Runtime out")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    title = f"{processor()}, torch {torch.__version__}, {args.threads} thread(s), batch {args.batch}"
    table = Table(title=title)
    headings = ("net", "gone", "GFLOP", "fewer", "MiB", "smaller", "torch, ms", "faster", "ONNX Runtime, ms", "faster")
    for heading in headings:
        table.add_column(heading)
    results = []
    for name in args.net or CASES:
        for gone in args.gone or (0.5, 0.7):
            print(f"{name}, {gone:.0%} gone", file=sys.stderr, flush=True)
            found = measure(CASES[name], args.batch, gone, args.budget, args.runtime)
            table.add_row(name, f"{gone:.0%}", *cells(found))
            results.append({"net": name, "gone": gone, "batch": args.batch, **found})
    if args.json:
        machine = {"processor": processor(), "torch": torch.__version__, "threads": args.threads}
        print(json.dumps({**machine, "nets": results}, indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 190).print(table)


if __name__ == "__main__":
    main()
