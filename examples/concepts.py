"""Make the picture of docs/concepts.md: one real weight from its trained value to its packed blocks.

python examples/concepts.py
"""

import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.patches import Rectangle
from torch import nn
from torch.utils.data import DataLoader

import bayesprune as bp
from bayesprune import data

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "concepts.png"
SIDE, KEEP = 8, 0.3  # blocks of 8 outputs × 8 inputs, and the fraction of the entries that stays
BLUE, LINE = "#0072B2", "#777777"
TAG = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}


def fit() -> tuple[nn.Module, bp.BayesianNet]:
    """A net trained on the digits as usual, and the posterior that starts at it."""
    splits = data.digits()
    train = DataLoader(splits.train, batch_size=64, shuffle=True)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    dense = bp.BayesianNet(net, {})
    bp.fit(bp.classify(dense, len(splits.train)), dense.guide, train, epochs=20, lr=1e-3, seed=0)
    dense.write_into(net)
    bnet = bp.BayesianNet(net, {"1.weight": bp.SparseVD(bp.Block(SIDE, SIDE))})
    bp.fit(bp.classify(bnet, len(splits.train)), bnet.guide, train, epochs=40, lr=3e-3, seed=0)
    return net, bnet


def main() -> None:
    warnings.simplefilter("ignore", bp.BudgetWarning)  # the picture is of how masks come about, not of accuracy
    net, bnet = fit()
    name = "1.weight"
    weight, mean, sd = (x.detach().numpy() for x in (net[1].weight, bnet.means()[name], bnet.variances()[name].sqrt()))
    masks = bp.masks(bnet, keep=KEEP)
    mask, snr = masks[name].numpy(), bnet.snr()[name].numpy()
    packed = bp.BSR(SIDE, SIDE).pack(torch.from_numpy(mean), masks[name])

    figure, axes = plt.subplots(2, 3, figsize=(10.6, 6.9), layout="constrained")
    (a, b, c), (d, e, f) = axes
    bound = float(np.quantile(np.abs(mean), 0.995))
    signed = {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}

    def show(ax: Axes, image: np.ndarray, title: str, call: str, note: str, bar: bool = True, **how: object) -> None:
        drawn = ax.imshow(image, interpolation="nearest", extent=(0, image.shape[1], image.shape[0], 0), **how)
        ax.set_title(title, fontsize=11, weight="bold", loc="left")
        ax.set_title(call, fontsize=8, family="monospace", loc="right")
        ax.set_xlabel(note, fontsize=8.5)
        ax.set_xticks([])
        ax.set_yticks([])
        if bar:
            figure.colorbar(drawn, ax=ax, shrink=0.85, pad=0.02).ax.tick_params(labelsize=7)

    def grid(ax: Axes, step: int, n: int) -> None:
        for at in range(step, n, step):
            ax.axhline(at, color=LINE, linewidth=0.5)
            ax.axvline(at, color=LINE, linewidth=0.5)

    show(a, weight, "1  weight", "net", "64 outputs × 64 inputs, cut into groups of 8 × 8", **signed)
    show(b, mean, "2  posterior mean", "bnet.means()", "what each entry is, after the fit", **signed)
    show(c, sd, "2  posterior sd", "bnet.variances()", "how unsure each entry is", cmap="magma_r", norm=LogNorm())
    show(d, snr, "3  SNR by group", "bnet.snr()", "√(Σ mean² / Σ sd²) over each group", cmap="viridis", norm=LogNorm())
    kept = int(masks[name].sum()) // SIDE**2
    show(e, mask, "4  mask", f"bp.masks(bnet, keep={KEEP})", f"the {kept} of 64 groups with the highest SNR", False,
         cmap=ListedColormap(["white", BLUE]), vmin=0, vmax=1)  # fmt: skip
    for ax in (a, b, c, e):
        grid(ax, SIDE, 64)
    grid(d, 1, 8)

    # block row by block row, the kept blocks pushed to the left, each with its block column
    crow, col = packed.crow.tolist(), packed.col.tolist()
    stored = np.full((64, 64), np.nan)
    for row in range(len(crow) - 1):
        for place, column in enumerate(col[crow[row] : crow[row + 1]]):
            down, left, right = (slice(at * SIDE, (at + 1) * SIDE) for at in (row, place, column))
            stored[down, left] = mean[down, right]
            f.add_patch(Rectangle((left.start, down.start), SIDE, SIDE, fill=False, edgecolor=LINE, linewidth=0.8))
            f.text(left.start + SIDE / 2, down.start + SIDE / 2, column, ha="center", va="center", fontsize=8, bbox=TAG)
    show(f, stored, "5  packed", "bp.export(…)", f"the {len(col)} kept blocks and their block columns", **signed)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
