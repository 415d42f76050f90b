"""Local, weight and flipout draws of the same posterior: what they agree on, and what each leaves out or costs.

    python examples/benchmarks/estimators.py

A small convolutional net and its posterior on the digits that scikit-learn bundles. Printed per estimator and layer:
how far the mean gradient lies from the weight draw's (relative, with what Monte Carlo alone would give), the variance
of a gradient relative to the weight draw's, and the correlation of neighbouring outputs of the first convolution, which
share one kernel.
"""

import argparse
import copy

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader

import bayesprune as bp
from bayesprune.data import digits
from bayesprune.fitting.elbo import MeanFieldELBO


def gradients(bnet: bp.BayesianNet, x: torch.Tensor, y: torch.Tensor, draws: int) -> dict[str, torch.Tensor]:
    """Gradients of the likelihood's half of the ELBO: parameter name -> (draws, entries)."""
    bound = MeanFieldELBO()(bp.classify(bnet, size=len(x)), bnet.guide)
    bound.elbo.kl_weight = 0.0
    wanted = {n: p for n, p in bnet.named_parameters() if n.endswith(("loc", "log_scale"))}
    found: dict[str, list[torch.Tensor]] = {n: [] for n in wanted}
    for i in range(draws + 1):
        for n, g in zip(wanted, torch.autograd.grad(bound(x, y) / len(x), list(wanted.values())), strict=True):
            if i:  # the first pass counts uses, with weight draws
                found[n].append(g.flatten())
    return {n: torch.stack(g) for n, g in found.items()}


def neighbours(bnet: bp.BayesianNet, x: torch.Tensor, draws: int) -> float:
    """The mean correlation of two neighbouring outputs of the first convolution."""
    outputs: list[torch.Tensor] = []
    hook = bnet.net.get_submodule("conv1").register_forward_hook(lambda m, a, out: outputs.append(out.detach()[:4]))
    bound = MeanFieldELBO()(bp.classify(bnet, size=len(x)), bnet.guide)
    for _ in range(draws + 1):
        bound(x, torch.zeros(len(x), dtype=torch.long))
    hook.remove()
    seen = torch.stack(outputs[1:])
    seen = (seen - seen.mean(0)) / seen.std(0).clamp_min(1e-9)
    return float((seen[..., 1:] * seen[..., :-1]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3000)
    args = parser.parse_args()
    splits = digits()
    torch.manual_seed(0)
    layers = {"conv1": nn.Conv2d(1, 8, 3), "relu1": nn.ReLU(), "conv2": nn.Conv2d(8, 8, 3), "relu2": nn.ReLU()}
    net = nn.Sequential()
    for name, layer in (*layers.items(), ("flatten", nn.Flatten()), ("fc", nn.Linear(128, 10))):
        net.add_module(name, layer)
    base = bp.BayesianNet(net, {"*.weight": bp.SparseVD()})
    train = DataLoader(splits.train, batch_size=64, shuffle=True)
    bp.fit(bp.classify(base, len(splits.train)), base.guide, train, epochs=10, lr=3e-3, seed=0)
    x, y = (t[:64] for t in splits.train.tensors)
    table = Table(title=f"SparseVD, 64 digits, {args.draws:,} draws; gradient of the likelihood")
    for heading in ("estimator", "parameter", "deviation of the mean", "of that Monte Carlo", "variance", "neighbours"):
        table.add_column(heading)
    reference: dict[str, torch.Tensor] = {}
    for estimator in ("weight", "local", "flipout"):
        bnet = copy.deepcopy(base)
        bnet.estimator = estimator
        torch.manual_seed(1)
        correlation = neighbours(bnet, x, 500)
        found = gradients(bnet, x, y, args.draws)
        if not reference:
            reference = found
        for n, g in found.items():
            mean, truth = g.mean(0), reference[n].mean(0)
            noise = ((g.var(0) + reference[n].var(0)).sum() / args.draws).sqrt()
            moved = 0.0 if g is reference[n] else float((mean - truth).norm() / truth.norm())
            label = n.removeprefix("_posteriors.")
            ratio = float(g.var(0).sum() / reference[n].var(0).sum())
            table.add_row(
                estimator,
                label,
                f"{moved:.3f}",
                f"{float(noise / truth.norm()):.3f}",
                f"{ratio:.2f}",
                f"{correlation:.2f}",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
