"""Which inputs matter? Every method on a linear regression whose answer is known.

    python examples/benchmarks/relevant_inputs.py

64 inputs, of which 8 carry weights of size 0.5 to 1.5 and random sign; 1,000 examples; the weights' norm is three
times the noise; the noise is learned. One weight per group (``Channel(1)``), 150 epochs of each method's defaults from
a fresh net. Printed per method: in how many seeds the 8 largest signal-to-noise ratios are the 8 relevant inputs, and
how many of the 56 others stand above the method's own threshold, where its paper has one.
"""

import argparse
import math

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp

PATTERN = bp.Channel(1)
METHODS: dict[str, bp.Method] = {
    "SparseVD": bp.SparseVD(PATTERN),
    "ARD": bp.ARD(PATTERN),
    "Gaussian": bp.Gaussian(PATTERN),
    "Laplace": bp.Laplace(PATTERN),
    "NormalJeffreys": bp.NormalJeffreys(PATTERN),
    "Horseshoe": bp.Horseshoe(PATTERN),
    "HardConcrete": bp.HardConcrete(PATTERN),
    "SpikeSlab": bp.SpikeSlab(PATTERN),
    "StructuredDropout": bp.StructuredDropout(PATTERN),
    "GroupVD": bp.GroupVD(PATTERN),
    "GroupVD tied": bp.GroupVD(PATTERN, tied=True),
}


def regression(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = 0.5 + torch.rand(8, generator=generator)
    sign = torch.randint(0, 2, (8,), generator=generator) * 2 - 1
    weight = torch.zeros(64)
    weight[torch.randperm(64, generator=generator)[:8]] = size * sign
    x = torch.randn(1000, 64, generator=generator)
    noise = float(weight.norm()) / 3
    return x, (x @ weight + noise * torch.randn(1000, generator=generator))[:, None], weight


def ranking(method: bp.Method, seed: int, epochs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The signal-to-noise ratio of each input, and which are relevant."""
    x, y, weight = regression(seed)
    torch.manual_seed(seed)
    net = nn.Linear(64, 1, bias=False)
    bnet = bp.BayesianNet(net, {"weight": method})
    loader = DataLoader(TensorDataset(x, y), batch_size=100, shuffle=True)
    bp.fit(bp.regress(bnet, size=1000), bnet.guide, loader, epochs=epochs, seed=seed)
    return bnet.snr()["weight"], weight != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=150)
    args = parser.parse_args()
    table = Table(title=f"8 relevant inputs of 64, {args.seeds} seeds, {args.epochs} epochs of defaults")
    for heading in ("method", "8 largest SNRs are the 8", "relevant among the 8 largest", "threshold", "false keeps"):
        table.add_column(heading)
    for name, method in METHODS.items():
        hits, right, false = 0, [], []
        for seed in range(args.seeds):
            snr, relevant = ranking(method, seed, args.epochs)
            among = int(relevant[snr.argsort(descending=True)[:8]].sum())
            right.append(among)
            hits += among == 8
            threshold = method.snr_threshold
            false.append(math.nan if threshold is None else int((snr[~relevant] >= threshold).sum()))
        limit = "–" if method.snr_threshold is None else f"{method.snr_threshold:.2f}"
        keeps = "–" if method.snr_threshold is None else f"{sum(false) / len(false):.1f} of 56"
        table.add_row(name, f"{hits} of {args.seeds}", f"{sum(right) / len(right):.1f}", limit, keeps)
        print(name, hits, right, false, flush=True)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
