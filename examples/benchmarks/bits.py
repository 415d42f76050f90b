"""Pruned LeNets in float32, 8 and 4 bits: what fewer bits cost in error, and what they take in bytes and time.

    OMP_NUM_THREADS=1 python examples/benchmarks/bits.py --keep-fits fits

Each net is fitted and pruned on MNIST (minutes; `--keep-fits` keeps it for the next time), then exported as the plan
has it in float32, and once more with the same blocks in integers, with scales from the posterior or without. Latencies
are ratios to float32 in turns; `float32 again` tells how far two of the same are apart. `--test` reads the test images.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.data import mnist
from bayesprune.nets import lenet_5_caffe, lenet_300_100
from bayesprune.sparse.formats.quantised import held_in
from bayesprune.sparse.timing.cache import processor


@dataclass(frozen=True)
class Case:
    """A net, its methods, the fraction of weights that it keeps, and how many epochs it is trained and then fitted."""

    net: type[nn.Module] | object
    rules: Mapping[str, bp.Method]
    keep: float
    epochs: tuple[int, int]

    def make(self) -> nn.Module:
        """The net, untrained."""
        torch.manual_seed(0)
        return self.net()  # type: ignore[operator]


TALL, SHORT = bp.GroupVD(bp.Block(16, 1)), bp.GroupVD(bp.Block(2, 1))  # the last layer has ten outputs
CASES = {
    "LeNet-300-100, single weights": Case(lenet_300_100, {"*.weight": bp.SparseVD()}, 0.02, (4, 12)),
    "LeNet-300-100, 16×1 blocks": Case(lenet_300_100, {"fc3.weight": SHORT, "*.weight": TALL}, 0.05, (4, 12)),
    "LeNet-5-Caffe, single weights": Case(lenet_5_caffe, {"*.weight": bp.SparseVD()}, 0.01, (2, 6)),
    "LeNet-5-Caffe, 16×1 blocks": Case(lenet_5_caffe, {"fc2.weight": SHORT, "*.weight": TALL}, 0.03, (2, 6)),
}
BATCHES = (1, 64, 256)


def pictures(data: TensorDataset) -> TensorDataset:
    """Images of one channel, which both nets take, and their digits."""
    x, y = data.tensors
    return TensorDataset(x.reshape(-1, 1, 28, 28), y)


def fitted(case: Case, train: TensorDataset, file: Path | None) -> dict[str, dict]:
    """The dense net's values, and the pruned posterior's means, variances, masks and bit widths."""
    if file is not None and file.exists():
        return torch.load(file, weights_only=True)
    net, loader = case.make(), DataLoader(train, batch_size=256, shuffle=True)

    def fit(rules: Mapping[str, bp.Method], epochs: int, lr: float, prune: bp.Callback | None) -> bp.BayesianNet:
        bnet = bp.BayesianNet(net, rules)
        model = bp.classify(bnet, size=len(train))
        bp.fit(model, bnet.guide, loader, epochs=epochs, lr=lr, prune=prune, seed=0)
        return bnet

    fit({}, case.epochs[0], 1e-3, None).write_into(net)
    bnet = fit(case.rules, case.epochs[1], 2e-3, bp.Cubic(keep=case.keep))
    masks = bp.masks(bnet, keep=case.keep)
    found = {"net": net.state_dict(), "means": bnet.means(), "variances": bnet.variances(), "masks": masks}
    found["bits"] = bp.bit_widths(bnet, masks)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, file)
    return found


def exports(net: nn.Module, found: Mapping[str, dict], x: Tensor) -> dict[str, nn.Module]:
    """The net in each way that it is held, all in the formats that are fastest in float32 for a batch like x."""
    means, masks, variances = found["means"], found["masks"], found["variances"]
    plan = bp.plan(net, masks, example=x)

    def held(bits: Mapping[str, int | None] | int | None, variances: Mapping[str, Tensor] | None) -> nn.Module:
        choices, widths = {}, held_in(bits, masks)
        for name, choice in plan.choices.items():
            form = choice.format
            packed = isinstance(form, bp.BSR | bp.CSR)
            choices[name] = replace(choice, format=replace(form, bits=widths[name])) if packed else choice
        own = replace(plan, choices=choices)
        return bp.export(net, means, masks, example=x, plan=own, variances=variances)

    return {
        "float32": held(None, None),
        "float32 again": held(None, None),
        "8 bits": held(8, variances),
        "8 bits, largest weight": held(8, None),
        "4 bits": held(4, variances),
        "4 bits, largest weight": held(4, None),
        "bit_widths": held(found["bits"], variances),
    }


@torch.no_grad()
def error(net: nn.Module, data: TensorDataset) -> float:
    """The share of the images that are taken for another digit."""
    x, y = data.tensors
    return sum(int((net(a).argmax(1) != b).sum()) for a, b in zip(x.split(256), y.split(256), strict=True)) / len(y)


@torch.no_grad()
def latencies(nets: Mapping[str, nn.Module], x: Tensor, budget: float) -> dict[str, float]:
    """The median seconds of a call, the nets in a new order each round, each after a call that is not timed."""
    names, times = list(nets), {name: list[float]() for name in nets}
    start = time.perf_counter()
    while time.perf_counter() - start < budget or len(times[names[0]]) < 7:
        random.shuffle(names)
        for name in names:
            nets[name](x)
            before = time.perf_counter()
            nets[name](x)
            nets[name](x)
            times[name].append((time.perf_counter() - before) / 2)
    return {name: median(each) for name, each in times.items()}


def bytes_of(net: nn.Module) -> int:
    """On disk, as :func:`bayesprune.save` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        bp.save(net, Path(folder) / "model")
        return (Path(folder) / "model").stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="one of the nets; may be given again")
    parser.add_argument("--keep-fits", type=Path, help="a folder for fits, read where they are there already")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds of timing for a net and batch")
    parser.add_argument("--test", action="store_true", help="read the test images too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    splits = mnist()
    train, val, test = (pictures(part) for part in (splits.train, splits.val, splits.test))
    table = Table(title=f"{processor()}, torch {torch.__version__}, one thread")
    parts = ("validation", *(("test",) if args.test else ()))
    for heading in ("net", "held in", *parts, "bytes on disk", *(f"batch {batch}" for batch in BATCHES)):
        table.add_column(heading)
    for name in args.case or CASES:
        print(name, file=sys.stderr, flush=True)
        case, file = CASES[name], args.keep_fits and args.keep_fits / f"{list(CASES).index(name)}.pt"
        found, net = fitted(case, train, file), case.make()
        net.load_state_dict(found["net"])
        by_batch = {batch: exports(net, found, train.tensors[0][:batch]) for batch in BATCHES}
        seconds = {b: latencies(nets, train.tensors[0][:b], args.budget) for b, nets in by_batch.items()}
        for held, exported in by_batch[BATCHES[-1]].items():
            errors = [f"{error(exported, part):.2%}" for part in ((val, test) if args.test else (val,))]
            base = {b: t["float32"] for b, t in seconds.items()}
            times = [
                f"{base[b] * 1e6:.1f} µs" if held == "float32" else f"{seconds[b][held] / base[b]:.3f}×"
                for b in BATCHES
            ]
            told = f"{held} {[w or '–' for w in found['bits'].values()]}" if held == "bit_widths" else held
            table.add_row(name if held == "float32" else "", told, *errors, f"{bytes_of(exported):,}", *times)
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
