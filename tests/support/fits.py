"""Small fits that many tests share, and how their outcomes are compared."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.fitting.history import History
from bayesprune.pruning import Run
from support.elsewhere import environment

N = 48


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(N, 1, 6, 6, generator=generator)
    return x, (x.mean((1, 2, 3)) > 0).long()


def linear(seed: int = 0, **kwargs: Any) -> bp.BayesianNet:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 2))
    return bp.BayesianNet(net, {"*.weight": bp.SparseVD()}, **kwargs)


def convolution(seed: int = 0, **kwargs: Any) -> bp.BayesianNet:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2))
    return bp.BayesianNet(net, {"*.weight": bp.Gaussian(init_log_scale=-2.0)}, **kwargs)


NETS = {"linear": linear, "convolution": convolution}


def batches(size: int) -> list[tuple[Tensor, Tensor]]:
    x, y = data()
    return list(zip(x.split(size), y.split(size), strict=True))


def fit(bnet: bp.BayesianNet, loader: Any = None, **kwargs: Any) -> History:
    wanted: dict[str, Any] = {"epochs": 3, "lr": 0.01, "seed": 1, "progress": False, **kwargs}
    return bp.fit(bp.classify(bnet, N), bnet.guide, batches(16) if loader is None else loader, **wanted)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


class Note(bp.Callback):
    """Remembers what it saw; raises ``error`` after step ``at``."""

    def __init__(self, at: int = 0, error: BaseException | None = None) -> None:
        self.at, self.error = at, error
        self.steps: list[int] = []
        self.epochs: list[float] = []
        self.rates: list[list[float]] = []
        self.run: Run | None = None

    def on_step(self, run: Run) -> None:
        self.run = run
        self.steps.append(run.step)
        self.rates.append([group["lr"] for group in run.optimizer.param_groups])
        if self.error is not None and run.step == self.at:
            raise self.error

    def on_epoch(self, run: Run) -> None:
        self.epochs.append(run.progress)


def shuffled(workers: int = 0, generator: torch.Generator | None = None) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*data()), batch_size=16, shuffle=True, num_workers=workers, generator=generator)


def checkpointed(folder: Path | None, epochs: int = 4, **kwargs: Any) -> tuple[dict[str, Tensor], Any]:
    bnet = convolution()
    history = fit(
        bnet, shuffled(), epochs=epochs, seed=3, prune=bp.Cubic(keep=0.5, every=2), checkpoint=folder, **kwargs
    )
    return state(bnet), history


def assert_same_run(one: tuple[dict[str, Tensor], Any], two: tuple[dict[str, Tensor], Any]) -> None:
    assert same(one[0], two[0])
    plain = [[(e.epoch, e.nll, e.kl, e.kl_weight, e.kept) for e in history.epochs] for _, history in (one, two)]
    assert plain[0] == plain[1]


def in_a_process(body: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run ``body`` in a fresh interpreter, where ``t`` is this module and ``folder`` a path; no type checks there."""
    head = "from pathlib import Path\nfrom support import fits as t\nt.torch.set_num_threads(1)\n"
    command = [sys.executable, "-c", f"{head}folder = Path({str(folder)!r})\n{body}"]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
