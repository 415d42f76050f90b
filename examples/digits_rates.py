"""The rates of the demo: LeNet-300-100 on digits, the posterior and gradual magnitude pruning, each at its best rate.

    python examples/digits_rates.py --out digits.jsonl             # the record; started again, it goes on
    python examples/digits_rates.py --out digits.jsonl --table     # what is in the file

Every net starts from a dense one of 20 epochs, of the same seed, and trains 60 epochs more. For each budget each method
has the best of four rates, by the mean validation error of three seeds that are not in the table (of equal ones the
lower NLL). Then the table's seeds are run and the test images are read, once. The dense control is chosen likewise.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.data import Splits, digits
from bayesprune.evaluation.classification import error, negative_log_likelihood
from bayesprune.nets import lenet_300_100

RATES, KEEPS, SEEDS, CHOOSING = (1.5e-3, 3e-3, 6e-3, 1.2e-2), (0.02, 0.01, 0.005), range(3), range(100, 103)
METHODS = {
    "posterior": (bp.SparseVD(), bp.snr),
    "gradual magnitude": (bp.Deterministic(), bp.magnitude),
    "dense control": (None, None),
}
PRETRAIN, EPOCHS, BATCH = 20, 60, 64


def fit(bnet: bp.BayesianNet, splits: Splits, epochs: int, lr: float, seed: int, prune: Any = None) -> None:
    loader = DataLoader(splits.train, batch_size=BATCH, shuffle=True)
    model = bp.classify(bnet, size=len(splits.train))
    bp.fit(model, bnet.guide, loader, epochs=epochs, lr=lr, prune=prune, seed=seed, progress=False)


def start(splits: Splits, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    net = lenet_300_100(inputs=64)
    dense = bp.BayesianNet(net, {})
    fit(dense, splits, PRETRAIN, 1e-3, seed)
    dense.write_into(net)
    return net


def run(name: str, splits: Splits, keep: float, lr: float, seed: int, examples: TensorDataset) -> dict[str, float]:
    """Error and NLL on some examples, pruned."""
    method, saliency = METHODS[name]
    net = start(splits, seed)
    bnet = bp.BayesianNet(net, {} if method is None else {"fc*.weight": method})
    fit(bnet, splits, EPOCHS, lr, seed, None if method is None else bp.Cubic(keep=keep, saliency=saliency))
    means = bnet.means()
    if method is not None:
        means |= {name: means[name] * mask for name, mask in bp.masks(bnet, keep=keep, saliency=saliency).items()}
    x, y = examples.tensors
    with torch.no_grad():
        probs = functional_call(net, means, (x,)).softmax(-1)
    return {"error": error(probs, y), "nll": negative_log_likelihood(probs, y)}


class Log:
    """Lines of JSON, each with what it is of and what was found; what is there is not run again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def find(self, **of: Any) -> list[dict[str, Any]]:
        return [line for line in self.lines if of.items() <= line.items()]

    def add(self, **line: Any) -> None:
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)

    def best_rate(self, name: str, keep: float) -> float:
        def figures(lr: float) -> tuple[float, float]:
            tried = self.find(on="val", name=name, keep=keep, lr=lr)
            return tuple(statistics.mean(line[figure] for line in tried) for figure in ("error", "nll"))

        return min(RATES, key=figures)


def cells() -> Iterator[tuple[str, float]]:
    yield from ((name, keep) for keep in KEEPS for name in METHODS if METHODS[name][0] is not None)
    yield "dense control", 1.0


def record(log: Log, splits: Splits) -> None:
    for name, keep in cells():
        for lr in RATES:
            for seed in CHOOSING:
                key = {"on": "val", "name": name, "keep": keep, "lr": lr, "seed": seed}
                if not log.find(**key):
                    log.add(**key, **run(name, splits, keep, lr, seed, splits.val))
        lr = log.best_rate(name, keep)
        for seed in SEEDS:
            key = {"on": "test", "name": name, "keep": keep, "lr": lr, "seed": seed}
            if not log.find(**key):
                log.add(**key, **run(name, splits, keep, lr, seed, splits.test))


def table(log: Log) -> None:
    print(f"| | kept | rate | {' | '.join(f'seed {seed}' for seed in SEEDS)} |\n|{'---|' * (3 + len(SEEDS))}")
    for name, keep in cells():
        found = log.find(on="test", name=name, keep=keep)
        if found:
            errors = " | ".join(f"{line['error']:.2%}" for line in found)
            print(f"| {name} | {keep:.1%} | {found[0]['lr']:g} | {errors} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("digits.jsonl"), help="where the figures are kept, a line each"
    )
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    args = parser.parse_args()
    log = Log(args.out)
    if not args.table:
        record(log, digits())
    table(log)


if __name__ == "__main__":
    main()
