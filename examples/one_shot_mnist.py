"""LeNet-300-100 on MNIST: a trained net pruned without any training, ``bp.prune`` beside its rivals.

    OMP_NUM_THREADS=1 python examples/one_shot_mnist.py --out one_shot.jsonl           # started again, it goes on
    OMP_NUM_THREADS=1 python examples/one_shot_mnist.py --out one_shot.jsonl --table   # what is in the file

Three dense nets of 8 epochs. Nothing here was tuned on the figures printed: the validation images of MNIST's training
set, on which nothing was trained. Rivals see the same 4,096 images.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader

import bayesprune as bp
from bayesprune.data import Splits, mnist
from bayesprune.evaluation.classification import error
from bayesprune.nets import lenet_300_100

KEEPS, SEEDS, RULES = (0.2, 0.1, 0.05, 0.02), range(3), ("fc1.weight", "fc2.weight", "fc3.weight")
Values = dict[str, Tensor]


def trained(splits: Splits, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = lenet_300_100()
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(8):
        for x, y in DataLoader(splits.train, batch_size=128, shuffle=True):
            adam.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            adam.step()
    return net


def largest(net: nn.Module, scores: Values, keep: float) -> Values:
    """The net's values with the lowest scores at 0, one budget for all weights."""
    every = torch.cat([s.flatten() for s in scores.values()])
    threshold = every.sort(descending=True).values[round(keep * len(every)) - 1]
    return {name: net.get_parameter(name).detach() * (s >= threshold) for name, s in scores.items()}


def inputs(net: nn.Module, x: Tensor) -> Values:
    """What goes into each layer."""
    first = x.flatten(1)
    second = net.get_submodule("fc1")(first).relu()
    third = net.get_submodule("fc2")(second).relu()
    return dict(zip(RULES, (first, second, third), strict=True))


@torch.no_grad()
def magnitude(net: nn.Module, x: Tensor, keep: float) -> Values:
    """Sizes over their layer's root mean square."""
    weights = {name: net.get_parameter(name) for name in RULES}
    return largest(net, {name: w.abs() / w.square().mean().sqrt() for name, w in weights.items()}, keep)


@torch.no_grad()
def wanda(net: nn.Module, x: Tensor, keep: float) -> Values:
    """|w| ‖x‖, the same share of each output's inputs (Sun et al. 2023, arXiv:2306.11695)."""
    found = {}
    for name, a in inputs(net, x).items():
        w = net.get_parameter(name)
        score = w.abs() * a.norm(dim=0)
        count = max(round(keep * w.shape[1]), 1)
        found[name] = w * torch.zeros_like(w).scatter_(1, score.topk(count, 1).indices, 1.0)
    return found


@torch.no_grad()
def obs(net: nn.Module, x: Tensor, keep: float) -> Values:
    """Layer-wise optimal brain surgery, w² / [(XᵀX)⁻¹]ᵢᵢ, one budget for all weights."""
    scores = {}
    for name, a in inputs(net, x).items():
        gram = a.double().mT @ a.double() / len(a)
        gram += 0.01 * gram.diagonal().mean() * torch.eye(len(gram))
        scores[name] = net.get_parameter(name).square() / torch.linalg.inv(gram).diagonal()
    return largest(net, scores, keep)


def conditioned(method: Callable[[nn.Module, Tensor, float], Values]) -> Callable[[nn.Module, Tensor, float], Values]:
    """The masks of ``method``, with what stays making up for what went, as ``bp.prune`` does it."""

    def run(net: nn.Module, x: Tensor, keep: float) -> Values:
        masks = {name: value != 0 for name, value in method(net, x, keep).items()}
        return bp.condition(net, masks, [(x, None)], size=55_000)

    return run


def one_shot(net: nn.Module, x: Tensor, keep: float) -> Values:
    return bp.prune(net, [(x, None)], keep=keep, shots=1, size=55_000).means


def cut(net: nn.Module, x: Tensor, keep: float) -> Values:
    masks = bp.prune(net, [(x, None)], keep=keep, shots=1, size=55_000).masks
    return {name: net.get_parameter(name).detach() * mask for name, mask in masks.items()}


def several_shots(net: nn.Module, x: Tensor, keep: float) -> Values:
    return bp.prune(net, [(x, None)], keep=keep, size=55_000).means


METHODS: dict[str, Callable[[nn.Module, Tensor, float], Values]] = {
    "magnitude, cut": magnitude,
    "magnitude, conditioned": conditioned(magnitude),
    "Wanda, cut": wanda,
    "Wanda, conditioned": conditioned(wanda),
    "layer-wise OBS, cut": obs,
    "layer-wise OBS, conditioned": conditioned(obs),
    "masks of `bp.prune(…, shots=1)`, cut": cut,
    "`bp.prune(…, shots=1)`": one_shot,
    "`bp.prune`": several_shots,
}


def record(path: Path) -> None:
    splits = mnist()
    x, (val, labels) = splits.train.tensors[0][:4096], splits.val.tensors
    done = {(d["name"], d["keep"], d["seed"]) for d in lines(path)}

    def add(name: str, keep: float, seed: int, values: Values, seconds: float) -> None:
        with torch.no_grad():
            found = error(functional_call(net, values, (val,)).softmax(-1), labels)
        with path.open("a") as file:
            row = {"name": name, "keep": keep, "seed": seed, "error": found, "seconds": seconds}
            file.write(json.dumps(row) + "\n")
            print(row, flush=True)

    for seed in SEEDS:
        missing = [(n, k) for n in METHODS for k in KEEPS if (n, k, seed) not in done]
        if missing:
            net = trained(splits, seed)
            add("dense", 1.0, seed, {}, 0.0)
        for name, keep in missing:
            begun = time.process_time()
            values = METHODS[name](net, x, keep)
            add(name, keep, seed, values, time.process_time() - begun)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(path: Path) -> None:
    found = lines(path)
    print("| | " + " | ".join(f"{keep:.0%}" for keep in (1.0, *KEEPS)) + " | CPU s at 2 % |")
    print("|---" * (len(KEEPS) + 3) + "|")
    for name in ("dense", *METHODS):
        cells = []
        for keep in (1.0, *KEEPS):
            errors = [d["error"] for d in found if (d["name"], d["keep"]) == (name, keep)]
            cells.append(" / ".join(f"{100 * e:.2f}" for e in errors))
        times = [d["seconds"] for d in found if (d["name"], d["keep"]) == (name, KEEPS[-1])]
        print(f"| {name} | {' | '.join(cells)} | {f'{statistics.median(times):.1f}' if times else ''} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("one_shot.jsonl"), help="where the figures are kept")
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    args = parser.parse_args()
    if not args.table:
        record(args.out)
    table(args.out)


if __name__ == "__main__":
    main()
