"""The whole path on real data: train, fit a sparse posterior, prune by its signal-to-noise ratio, pack, check, save."""

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bayesprune import data, nets
from bayesprune._files import make_folder, replace
from bayesprune.fitting.door import fit
from bayesprune.fitting.history import History
from bayesprune.fitting.supervised import classify
from bayesprune.methods import Deterministic, SparseVD
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.pruning import Cubic
from bayesprune.pruning.masking import masks
from bayesprune.pruning.saliency import magnitude
from bayesprune.reporting import Curve, Report, report
from bayesprune.runs.demo_curve import Fitted, More, curve_of
from bayesprune.runs.pictures import write_snr
from bayesprune.sparse import export, save

__all__ = ["TASKS", "Budget", "Demo", "Task", "claim_folder", "run_demo"]

RIVAL = "gradual magnitude"


@dataclass(frozen=True)
class Budget:
    """A fraction of the weights to keep, and the learning rates of the posterior and of the rival that go with it."""

    keep: float
    lr: float
    rival_lr: float


@dataclass(frozen=True)
class Task:
    """A data set, a net for it, and how long to train.

    Attributes:
        load: gives the splits.
        net: gives a fresh net.
        named: what the net is called.
        pretrain, epochs: epochs of dense training, and of fitting the posterior (its control and its rival get the
            same).
        batch: examples per step.
        lr: the learning rate of the dense control.
        budgets: what is kept, the most first.
    """

    load: Callable[[], data.Splits]
    net: Callable[[], nn.Module]
    named: str
    pretrain: int
    epochs: int
    batch: int
    lr: float
    budgets: tuple[Budget, ...]

    def at(self, keep: float | None) -> tuple[Budget, ...]:
        """The budgets, or the one that was asked for, at the rates of the nearest."""
        if keep is None:
            return self.budgets
        near = min(self.budgets, key=lambda budget: abs(math.log(budget.keep / keep)))
        return (Budget(keep, near.lr, near.rival_lr),)


# rates of digits: examples/digits_rates.py
TASKS = {
    "digits": Task(
        data.digits,
        partial(nets.lenet_300_100, inputs=64),
        "lenet_300_100(inputs=64)",
        *(20, 60, 64, 1.2e-2),
        (Budget(0.02, 6e-3, 1.2e-2), Budget(0.01, 1.2e-2, 6e-3), Budget(0.005, 6e-3, 6e-3)),
    ),
    "mnist": Task(
        data.mnist, nets.lenet_300_100, "lenet_300_100()", *(5, 20, 256, 2e-3), (Budget(0.02, 2e-3, 2e-3),)
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Demo:
    """What a demo found.

    Attributes:
        report: on the smallest budget's net.
        curve: error against size of the posterior (``"posterior"``) and its rival at each budget, and of the dense net
            that was trained as long (``"unpruned"``).
    """

    report: Report
    curve: Curve


def claim_folder(out: Path | None, force: bool) -> Path:
    """The folder to write into: ``out``, or a new ``bayesprune-demo-N`` here.

    Raises:
        FileExistsError: ``out`` holds something and ``force`` is not set.
        NotADirectoryError: ``out`` is a file.
    """
    if out is None:
        n = 1
        while True:
            try:
                Path(f"bayesprune-demo-{n}").mkdir()
                return Path(f"bayesprune-demo-{n}")
            except FileExistsError:
                n += 1
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: name a folder")
    if out.exists() and any(out.iterdir()) and not force:
        raise FileExistsError(f"--out {out} is not empty: name another folder, or add --force to write into it")
    make_folder(out)
    return out


def run_demo(
    task: Task,
    out: Path,
    *,
    name: str = "",
    epochs: int | None = None,
    seed: int = 0,
    keep: float | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> Demo:
    """Run the whole path and write the model, the report as data and as a page, and a picture of the SNR into ``out``.

    The posteriors, the dense control and the rivals, gradual magnitude pruning, start at the same trained net and see
    the same number of epochs; posterior and rival prune along the same cubic to the same sparsity. The net of the
    smallest budget is the one that is reported on and saved; it is fitted first, and after Ctrl-C the demo goes on with
    what there is.

    Args:
        task: the data set and the net.
        out: a folder that is there.
        name: what the data are called.
        epochs: of each fit but the first; by default the task's.
        seed: fixes initial weights, shuffling and draws.
        keep: a single budget in place of the task's.
        device: where to compute.
        say: is told what is going on.
    """
    epochs = task.epochs if epochs is None else epochs
    *others, main = task.at(keep)
    splits, steps = task.load(), 6 + 2 * len(others)
    train = DataLoader(splits.train, batch_size=task.batch, shuffle=True)
    test = DataLoader(splits.test, batch_size=task.batch)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = task.net().to(device)
    names, step = [name for name, p in net.named_parameters() if p.dim() > 1], 0

    def fitted(
        what: str, rules: Mapping[str, Any], epochs: int, lr: float, prune: Cubic | None = None
    ) -> tuple[BayesianNet, History]:
        nonlocal step
        step += 1
        say(f"{step}/{steps} {what}")
        bnet, size = BayesianNet(net, rules), len(splits.train)
        progress = None if sys.stderr.isatty() else False
        settings: dict[str, Any] = {"lr": lr, "prune": prune, "seed": seed, "device": device, "progress": progress}
        return bnet, fit(classify(bnet, size), train, epochs=epochs, **settings)

    def posterior(budget: Budget) -> tuple[BayesianNet, History]:
        what = f"fit a sparse posterior, {epochs} epochs, pruning by SNR on the way to {budget.keep:.3g}"
        return fitted(what, dict.fromkeys(names, SparseVD()), epochs, budget.lr, Cubic(keep=budget.keep))

    def rival(budget: Budget) -> tuple[BayesianNet, History]:
        prune = Cubic(keep=budget.keep, saliency=magnitude)
        what = f"fit the rival, {RIVAL} pruning, {epochs} epochs, to {budget.keep:.3g}"
        return fitted(what, dict.fromkeys(names, Deterministic()), epochs, budget.rival_lr, prune)

    dense, first = fitted(f"train the dense net, {task.pretrain} epochs", {}, task.pretrain, 1e-3)
    if first.interrupted:
        raise KeyboardInterrupt
    dense.write_into(net)
    ours, history = posterior(main)
    control: dict[str, Tensor] | None = None
    baseline: dict[str, Fitted] = {}
    more: list[More] = []
    stopped = history.interrupted
    if stopped:
        say(f"interrupted in epoch {len(history.epochs) + 1}: going on with what was fitted, without control and rival")
    else:
        longer, second = fitted(f"train the dense control, {epochs} epochs more", {}, epochs, task.lr)
        stopped = second.interrupted
        control = None if stopped else longer.means()
    for budget in () if stopped else (main, *others):
        if budget is not main:
            also, second = posterior(budget)
            if stopped := second.interrupted:
                break
            more.append(("posterior", budget.keep, also, masks(also, keep=budget.keep)))
        other, second = rival(budget)
        if stopped := second.interrupted:
            break
        kept = masks(other, keep=budget.keep, saliency=magnitude)
        if budget is main:
            baseline[RIVAL] = other.means(), kept
        else:
            more.append((RIVAL, budget.keep, other, kept))
    if stopped and not history.interrupted:
        say("interrupted: going on without the rest")
    say(f"{steps - 1}/{steps} measure: formats, latency, error, calibration")
    kept = masks(ours, keep=main.keep)
    found = report(ours, kept, test, control=control, baseline=baseline, classes=splits.classes or None, seed=seed)
    example = splits.test.tensors[0][: task.batch].to(device)
    curve = curve_of(found, main.keep, more, test, example, seed)
    say(f"{steps}/{steps} pack and save")
    save(export(net, ours.means(), kept, example=example, plan=found.plan), out / "model.safetensors")
    settings = {"seed": seed, "epochs": epochs, "keep": main.keep, "batch": task.batch, "lr": main.lr}
    figures = {**settings, "fit": history.to_dict(), "curve": curve.to_dict(), **found.to_dict()}
    replace(out / "report.json", lambda fresh: fresh.write_text(json.dumps(figures, indent=2)))
    recipe = (
        f"bayesprune demo{f' --data {name}' if name else ''} --keep {main.keep:g} --epochs {epochs} --seed {seed}\n"
    )
    found.to_html(
        out / "report.html",
        model=str(out / "model.safetensors"),
        net=task.named,
        data=name or None,
        run=str(out),
        recipe=recipe,
        curve=curve if len(curve.points) > 2 else None,
    )
    write_snr(out / "snr.png", ours, kept)
    return Demo(found, curve)
