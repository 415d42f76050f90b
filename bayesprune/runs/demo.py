"""The whole path on real data: train, fit a sparse posterior, prune by its signal-to-noise ratio, pack, check, save."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
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
from bayesprune.reporting import Report, report
from bayesprune.runs.pictures import write_snr
from bayesprune.sparse import export, save

__all__ = ["TASKS", "Task", "claim_folder", "run_demo"]


@dataclass(frozen=True)
class Task:
    """A data set, a net for it, and how long to train.

    Attributes:
        load: gives the splits.
        net: gives a fresh net.
        pretrain, epochs: epochs of dense training, and of fitting the posterior (its control and its rival get the
            same).
        batch: examples per step.
        lr: the learning rate of the posterior and of its rival.
        keep: the fraction of weights kept by default.
    """

    load: Callable[[], data.Splits]
    net: Callable[[], nn.Module]
    pretrain: int
    epochs: int
    batch: int
    lr: float
    keep: float


Fitted = tuple[BayesianNet, History]

TASKS = {
    "digits": Task(data.digits, partial(nets.lenet_300_100, inputs=64), 20, 60, 64, 6e-3, 0.02),
    "mnist": Task(data.mnist, nets.lenet_300_100, 5, 20, 256, 2e-3, 0.02),
}


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
    epochs: int | None = None,
    seed: int = 0,
    keep: float | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> Report:
    """Run the whole path and write the model, the report as data and as a page, and a picture of the SNR into ``out``.

    The posterior, the dense control and the rival, gradual magnitude pruning, start at the same trained net and see
    the same number of epochs at the same rate; posterior and rival prune along the same cubic to the same sparsity.
    """
    epochs = task.epochs if epochs is None else epochs
    keep = task.keep if keep is None else keep
    splits = task.load()
    train = DataLoader(splits.train, batch_size=task.batch, shuffle=True)
    size = len(splits.train)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = task.net().to(device)
    names = [name for name, p in net.named_parameters() if p.dim() > 1]

    def fitted(what: str, rules: dict[str, Any], epochs: int, lr: float, prune: Cubic | None = None) -> Fitted:
        say(what)
        bnet = BayesianNet(net, rules)
        progress = None if sys.stderr.isatty() else False
        settings: dict[str, Any] = {"lr": lr, "prune": prune, "seed": seed, "device": device, "progress": progress}
        history = fit(classify(bnet, size), train, epochs=epochs, **settings)
        return bnet, history

    dense, history = fitted(f"1/6 train the dense net, {task.pretrain} epochs", {}, task.pretrain, 1e-3)
    if history.interrupted:
        raise KeyboardInterrupt
    dense.write_into(net)
    posterior, history = fitted(
        f"2/6 fit a sparse posterior, {epochs} epochs, pruning by SNR on the way",
        {name: SparseVD() for name in names},
        epochs,
        task.lr,
        Cubic(keep=keep),
    )
    rivals, control = {}, None
    if history.interrupted:
        say(f"interrupted in epoch {len(history.epochs) + 1}: going on with what was fitted, without control and rival")
    else:
        longer, second = fitted(f"3/6 train the dense control, {epochs} epochs more", {}, epochs, task.lr)
        control = None if second.interrupted else longer.means()
        rival, second = fitted(
            f"4/6 fit the rival, gradual magnitude pruning, {epochs} epochs",
            {name: Deterministic() for name in names},
            epochs,
            task.lr,
            Cubic(keep=keep, saliency=magnitude),
        )
        if second.interrupted:
            say("interrupted: going on without the rival")
        else:
            rivals["gradual magnitude"] = rival.means(), masks(rival, keep=keep, saliency=magnitude)
    say("5/6 measure: formats, latency, error, calibration")
    kept = masks(posterior, keep=keep)
    test = DataLoader(splits.test, batch_size=task.batch)
    found = report(posterior, kept, test, control=control, baseline=rivals, seed=seed)
    say("6/6 pack and save")
    example = splits.test.tensors[0][: task.batch].to(device)
    save(export(net, posterior.means(), kept, example=example, plan=found.plan), out / "model.safetensors")
    settings = {"seed": seed, "epochs": epochs, "keep": keep, "batch": task.batch, "lr": task.lr}
    figures = {**settings, "fit": history.to_dict(), **found.to_dict()}
    replace(out / "report.json", lambda fresh: fresh.write_text(json.dumps(figures, indent=2)))
    found.to_html(out / "report.html")
    write_snr(out / "snr.png", posterior, kept)
    return found
