"""A trained net goes in: how far is each posterior's mean from it after one epoch, at worst, and at the end?

    BAYESPRUNE_DATA=<folder> python examples/benchmarks/pretrained_in.py

LeNet-300-100, five epochs of dense training on MNIST, then a fit of each method's defaults over the three weight
matrices, nothing pruned. Validation error of the posterior mean, 5,000 images.
"""

import argparse

import torch
from rich.console import Console
from rich.table import Table
from torch.func import functional_call
from torch.utils.data import DataLoader

import bayesprune as bp
from bayesprune.data import mnist
from bayesprune.evaluation.classification import error
from bayesprune.nets import lenet_300_100

BLOCK = bp.Block(4, 1)
METHODS: dict[str, bp.Method] = {
    "SparseVD": bp.SparseVD(),
    "ARD": bp.ARD(),
    "Gaussian": bp.Gaussian(),
    "Laplace": bp.Laplace(),
    "NormalJeffreys, rows": bp.NormalJeffreys(bp.Channel(0)),
    "Horseshoe, rows": bp.Horseshoe(bp.Channel(0)),
    "HardConcrete, 4×1": bp.HardConcrete(BLOCK),
    "SpikeSlab, 4×1": bp.SpikeSlab(BLOCK),
    "StructuredDropout, rows": bp.StructuredDropout(bp.Channel(0)),
    "GroupVD, 4×1": bp.GroupVD(BLOCK),
    "GroupVD tied, 4×1": bp.GroupVD(BLOCK, tied=True),
}


class AfterEachEpoch(bp.Callback):
    """Notes the validation error of the posterior mean."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y, self.errors = x, y, list[float]()

    @torch.no_grad()
    def on_epoch(self, run: bp.Run) -> None:
        logits = functional_call(run.bnet.net, run.bnet.means(), (self.x,))
        self.errors.append(error(logits.softmax(-1), self.y))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    splits = mnist()
    train = DataLoader(splits.train, batch_size=256, shuffle=True)
    torch.manual_seed(args.seed)
    net = lenet_300_100()
    table = Table(title="validation error of the posterior mean")
    for heading in ("method", "after epoch 1", "at worst", "at the end", "NLL per image", "KL, nats"):
        table.add_column(heading)
    for name, method in {"dense": None, **METHODS}.items():
        bnet = bp.BayesianNet(net, {} if method is None else {"fc*.weight": method})
        notes = AfterEachEpoch(*splits.val.tensors)
        model = bp.classify(bnet, size=len(splits.train))
        history = bp.fit(
            model, bnet.guide, train, epochs=5 if method is None else args.epochs, seed=args.seed, callbacks=[notes]
        )
        if method is None:
            bnet.write_into(net)
        shown = (notes.errors[0], max(notes.errors), notes.errors[-1])
        table.add_row(name, *(f"{e:.2%}" for e in shown), f"{history.nll[-1]:.3f}", f"{history.kl[-1]:,.0f}")
        print(name, *(f"{e:.4f}" for e in shown), flush=True)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
