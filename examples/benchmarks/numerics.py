"""Does bfloat16 train as float32 does, from a fresh net, and does σ start and stay in bounds at every width?

    BAYESPRUNE_DATA=<folder> python examples/benchmarks/numerics.py

Each method's defaults, nothing pruned. First LeNet-300-100 on MNIST, from a fresh net, in float32 and under bfloat16
autocast with the same seed: validation error of the posterior mean, 5,000 images, and how many of them only one of
the two gets wrong. Then nets of 32 inputs, one hidden layer of 16 to 4,096 units and 10 classes on 2,000 examples from
a teacher, fresh and trained: what the first draws cost, the noise of the outputs at the start (standard deviation over
draws relative to that over examples), and the posterior's standard deviations before and after 100 steps.
"""

import argparse
import math

import torch
from pretrained_in import METHODS
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader

import bayesprune as bp
from bayesprune.data import mnist
from bayesprune.nets import lenet_300_100, mlp

WIDTHS = (16, 64, 256, 1024, 4096)
Examples = tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def wrong(bnet: bp.BayesianNet, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Where the posterior mean errs."""
    return functional_call(bnet.net, bnet.means(), (x,)).argmax(-1) != y


def precisions(epochs: int, seed: int) -> Table:
    splits = mnist()
    train = DataLoader(splits.train, batch_size=256, shuffle=True)
    table = Table(title=f"LeNet-300-100 on MNIST, fresh, {epochs} epochs: validation error of the posterior mean")
    for heading in ("method", "float32", "bfloat16", "difference", "wrong in one alone", "NLL float32", "NLL bfloat16"):
        table.add_column(heading)
    for name, method in {"dense": None, **METHODS}.items():
        found, nlls = [], []
        for precision in ("no", "bf16"):
            torch.manual_seed(seed)
            bnet = bp.BayesianNet(lenet_300_100(), {} if method is None else {"fc*.weight": method})
            model = bp.classify(bnet, size=len(splits.train))
            history = bp.fit(model, bnet.guide, train, epochs=epochs, seed=seed, autocast=precision)
            found.append(wrong(bnet, *splits.val.tensors))
            nlls.append(history.nll[-1])
        full, low = (float(f.double().mean()) for f in found)
        alone = f"{int((found[0] != found[1]).sum())} of {len(found[0]):,}"
        table.add_row(name, f"{full:.2%}", f"{low:.2%}", f"{low - full:+.2%}", alone, *(f"{nll:.4f}" for nll in nlls))
        print(name, f"{full:.4f} {low:.4f} {alone}", *nlls, flush=True)
    return table


def teacher() -> Examples:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 32, generator=generator)
    hidden = (x @ torch.randn(32, 20, generator=generator)).relu()
    return x, (hidden @ torch.randn(20, 10, generator=generator)).argmax(-1)


def fit(bnet: bp.BayesianNet, data: Examples, steps: int, seed: int) -> bp.History:
    batches = list(zip(*(t.split(100) for t in data), strict=True))
    model = bp.classify(bnet, size=len(data[0]))
    return bp.fit(model, bnet.guide, batches, epochs=math.ceil(steps / len(batches)), seed=seed)


@torch.no_grad()
def first_draws(bnet: bp.BayesianNet, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """What draws cost beyond the posterior mean, nats per example, and the outputs' noise relative to their signal."""
    bnet.eval()
    outputs, mean = torch.stack([bnet.run(bnet.draw(), x) for _ in range(10)]), bnet.run(bnet.means(), x)
    nll = nn.functional.cross_entropy(outputs.flatten(0, 1), y.repeat(10)) - nn.functional.cross_entropy(mean, y)
    return float(nll), float((outputs.var(0).mean() / mean.var(0).mean()).sqrt())


def sds(bnet: bp.BayesianNet) -> list[float]:
    """The median posterior standard deviation of each weight."""
    return [float(var.sqrt().median()) for _, var in bnet.moments().values()]


def at_clips(bnet: bp.BayesianNet) -> float:
    """The largest share of a parameter's log scales that stands at an end of its method's clip."""
    shares = [0.0]
    for name, posterior in bnet.posteriors.items():
        low, high = getattr(bnet.methods[name], "clip", (-math.inf, math.inf))
        for leaf, values in posterior.named_parameters():
            if "log_scale" in leaf or "log_group" in leaf:
                shares.append(float(((values <= low) | (values >= high)).double().mean()))
    return max(shares)


def widths(steps: int, seed: int) -> list[Table]:
    data = teacher()
    cost = Table(title="cost of the first draws beyond the mean, nats per example: fresh net / trained net")
    noise = Table(title="noise of the outputs relative to their signal at the start: fresh net / trained net")
    spread = Table(title=f"median posterior sd of the last layer's weights, fresh net: start → after {steps} steps")
    for table in (cost, noise, spread):
        for heading in ("method", *(f"{width:,}" for width in WIDTHS)):
            table.add_column(heading)
    spread.add_column("at a clip, at most")
    starts = []
    for width in WIDTHS:
        torch.manual_seed(seed)
        fresh = mlp(32, (width,), 10)
        bnet = bp.BayesianNet(fresh, {})
        fit(bnet, data, 200, seed)
        torch.manual_seed(seed)
        trained = mlp(32, (width,), 10)
        bnet.write_into(trained)
        starts.append((fresh, trained))
    for name, method in METHODS.items():
        costs, noises, spreads, clipped = [], [], [], [0.0]
        for nets in starts:
            torch.manual_seed(seed)
            bnets = [bp.BayesianNet(net, {"fc*.weight": method}) for net in nets]
            drawn = [first_draws(bnet, *(t[:500] for t in data)) for bnet in bnets]
            costs.append(" / ".join(f"{nll:z.2f}" for nll, _ in drawn))
            noises.append(" / ".join(f"{ratio:.2f}" for _, ratio in drawn))
            before = sds(bnets[0])[-1]
            for bnet in bnets:
                fit(bnet, data, steps, seed)
                clipped.append(at_clips(bnet))
            spreads.append(f"{before:.4f} → {sds(bnets[0])[-1]:.4f}")
        cost.add_row(name, *costs)
        noise.add_row(name, *noises)
        spread.add_row(name, *spreads, f"{max(clipped):.0%}")
        print(name, costs, noises, spreads, max(clipped), flush=True)
    return [cost, noise, spread]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3, help="on MNIST")
    parser.add_argument("--steps", type=int, default=100, help="at each width")
    args = parser.parse_args()
    tables = [precisions(args.epochs, args.seed), *widths(args.steps, args.seed)]
    for table in tables:
        Console(width=140).print(table)


if __name__ == "__main__":
    main()
