"""LeNet-300-100 on MNIST: error against size, the posterior beside rivals at their best rates and at equal time.

    python examples/rivals_mnist.py --out rivals.jsonl             # the record; started again, it goes on
    python examples/rivals_mnist.py --out rivals.jsonl --table     # what is in the file
    python examples/rivals_mnist.py --out rivals.jsonl --picture rivals.png

Every net starts from a dense one of 5 epochs, of the same seed. The posterior has 20 epochs more; rivals have 20, or as
many as take as long. Each has the best of three rates for each budget, by the validation error of a seed that is not in
the table; then five other seeds are run and the test images are read, once. So for the dense controls.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.data import Splits, mnist
from bayesprune.evaluation.classification import error
from bayesprune.nets import lenet_300_100
from bayesprune.pruning import Saliency

RATES, KEEPS, SEEDS, CHOOSING = (1e-3, 2e-3, 4e-3), (0.02, 0.005, 0.01), range(5), 100


@dataclass(frozen=True)
class Recipe:
    """A row: a method, what ranks its weights (``None``: nothing goes), and whether it has the first one's time."""

    name: str
    method: bp.Method
    saliency: Saliency | None
    same_time: bool = False


RECIPES = (
    Recipe("SparseVD, by SNR while fitting", bp.SparseVD(), bp.snr),
    Recipe("gradual magnitude", bp.Deterministic(), bp.magnitude),
    Recipe("gradual magnitude, equal time", bp.Deterministic(), bp.magnitude, True),
    Recipe("gradual LAMP", bp.Deterministic(), bp.lamp),
    Recipe("gradual LAMP, equal time", bp.Deterministic(), bp.lamp, True),
    Recipe("dense control", bp.Deterministic(), None),
)


def start(splits: Splits, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    net = lenet_300_100()
    dense = bp.BayesianNet(net, {})
    fit(dense, splits, epochs=5, lr=1e-3, seed=seed)
    dense.write_into(net)
    return net


def fit(
    bnet: bp.BayesianNet, splits: Splits, epochs: int, lr: float, seed: int, prune: bp.Callback | None = None
) -> float:
    loader = DataLoader(splits.train, batch_size=256, shuffle=True)
    begun = time.perf_counter()
    bp.fit(
        bp.classify(bnet, size=len(splits.train)),
        bnet.guide,
        loader,
        epochs=epochs,
        lr=lr,
        prune=prune,
        seed=seed,
        progress=False,
    )
    return time.perf_counter() - begun


def error_of(net: torch.nn.Module, means: dict[str, torch.Tensor], examples: TensorDataset) -> float:
    x, y = examples.tensors
    with torch.no_grad():
        return error(functional_call(net, means, (x,)).softmax(-1), y)


def run(recipe: Recipe, splits: Splits, keep: float, lr: float, seed: int, epochs: int) -> tuple[Any, ...]:
    net = start(splits, seed)
    bnet = bp.BayesianNet(net, {"fc*.weight": recipe.method})
    prune = recipe.saliency and bp.Cubic(keep=keep, saliency=recipe.saliency)
    fit(bnet, splits, epochs, lr, seed, prune)
    masks = bp.masks(bnet, keep=keep, saliency=recipe.saliency) if recipe.saliency else None
    return net, bnet.means(), masks


def size_of(
    net: torch.nn.Module, means: dict[str, torch.Tensor], masks: dict[str, torch.Tensor], x: torch.Tensor
) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        bp.save(bp.export(net, means, masks, example=x), path)
        return path.stat().st_size


def rivals_epochs(splits: Splits, epochs: int) -> int:
    """How many epochs of a rival take as long as ``epochs`` of the first recipe: medians of five, in turns."""
    net, seconds = start(splits, CHOOSING), ([], [])
    for _ in range(5):
        for times, recipe in zip(seconds, RECIPES[:2], strict=True):
            prune = bp.Cubic(keep=KEEPS[0], saliency=recipe.saliency)
            times.append(fit(bp.BayesianNet(net, {"fc*.weight": recipe.method}), splits, 1, 1e-3, 0, prune))
    ours, theirs = (statistics.median(times) for times in seconds)
    return round(epochs * ours / theirs)


class Log:
    """Lines of JSON, each with what it is of and what was found; what is there is not run again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def find(self, **of: Any) -> dict[str, Any] | None:
        return next((line for line in self.lines if of.items() <= line.items()), None)

    def add(self, **line: Any) -> dict[str, Any]:
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)
        return line

    def best_rate(self, name: str, keep: float) -> float:
        tried = [
            line for line in self.lines if line.get("val") is not None and (line["name"], line["keep"]) == (name, keep)
        ]
        return min(tried, key=lambda line: line["val"])["lr"]


def cells() -> Iterator[tuple[float, Recipe]]:
    for keep in KEEPS:
        for recipe in RECIPES:
            if recipe.saliency or keep == KEEPS[0]:
                yield (keep if recipe.saliency else 1.0), recipe


def record(log: Log, splits: Splits, epochs: int) -> None:
    ratio = log.find(what="epochs") or log.add(what="epochs", equal_time=rivals_epochs(splits, epochs))
    for keep, recipe in cells():
        length = ratio["equal_time"] if recipe.same_time else epochs
        for lr in RATES:
            key = {"name": recipe.name, "keep": keep, "lr": lr, "seed": CHOOSING}
            if not log.find(**key):
                net, means, masks = run(recipe, splits, keep, lr, CHOOSING, length)
                log.add(**key, val=error_of(net, {**means, **masked(means, masks)}, splits.val))
        lr = log.best_rate(recipe.name, keep)
        for seed in SEEDS:
            key = {"name": recipe.name, "keep": keep, "lr": lr, "seed": seed}
            if not log.find(**key):
                net, means, masks = run(recipe, splits, keep, lr, seed, length)
                size = size_of(net, means, masks or {}, splits.val.tensors[0][:256])
                log.add(**key, test=error_of(net, {**means, **masked(means, masks)}, splits.test), bytes=size)


def masked(means: dict[str, torch.Tensor], masks: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    return {name: means[name] * mask for name, mask in (masks or {}).items()}


def rows(log: Log) -> Iterator[tuple[str, float, float, list[float], int]]:
    for keep, recipe in cells():
        found = [line for line in log.lines if "test" in line and (line["name"], line["keep"]) == (recipe.name, keep)]
        if found:
            yield (
                recipe.name, keep, found[0]["lr"], [line["test"] for line in found],
                int(statistics.median(line["bytes"] for line in found)),
            )  # fmt: skip


def table(log: Log) -> None:
    ratio = log.find(what="epochs")
    print(f"equal time: {ratio and ratio['equal_time']} epochs\n")
    print("| | kept | rate | test error, mean ± sd | seeds | bytes |\n|---|---|---|---|---|---|")
    for name, keep, lr, errors, size in rows(log):
        spread = statistics.stdev(errors) if len(errors) > 1 else float("nan")
        found = f"{statistics.mean(errors):.2%} ± {spread:.2%}"
        print(f"| {name} | {keep:.1%} | {lr:g} | {found} | {len(errors)} | {size:,} |")


def picture(log: Log, path: Path) -> None:
    import matplotlib.pyplot as plt

    from bayesprune.plots.style import COLOURS, GREY, MARKERS

    _, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    pruned = [recipe for recipe in RECIPES if recipe.saliency]
    for recipe, colour, marker in zip(pruned, COLOURS, MARKERS, strict=False):
        points = [
            (size / 1000, [100 * e for e in errors]) for name, _, _, errors, size in rows(log) if name == recipe.name
        ]
        middle = [statistics.mean(errors) for _, errors in points]
        spread = [statistics.stdev(errors) if len(errors) > 1 else 0 for _, errors in points]
        line = "--" if recipe.same_time else "-"
        ax.errorbar(
            [x for x, _ in points],
            middle,
            spread,
            color=colour,
            marker=marker,
            linestyle=line,
            capsize=3,
            label=recipe.name,
        )
    for name, _, _, errors, size in rows(log):
        if name == "dense control":
            ax.axhline(
                100 * statistics.mean(errors), color=GREY, linewidth=1, label=f"dense control ({size / 1000:,.0f} kB)"
            )
    ax.set(xscale="log", xlabel="file (kB)", ylabel="test error (%)", ylim=(0, None))
    ax.set_xticks([10, 20, 40], ["10", "20", "40"])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=8, loc="upper right")
    plt.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("rivals.jsonl"), help="where the figures are kept, a line each"
    )
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the posterior's fit")
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    parser.add_argument("--picture", type=Path, help="draw it")
    args = parser.parse_args()
    log = Log(args.out)
    if not args.table and not args.picture:
        record(log, mnist(), args.epochs)
    table(log)
    if args.picture:
        picture(log, args.picture)


if __name__ == "__main__":
    main()
