"""Callbacks of a fit: which is called when, and what each may do."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

import bayesprune as bp
from bayesprune.pruning import Run

X, Y = torch.randn(48, 6, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3


def small() -> bp.BayesianNet:
    torch.manual_seed(0)
    return bp.BayesianNet(nn.Sequential(nn.Linear(6, 3)), {"*.weight": bp.SparseVD()})


def fit(bnet: bp.BayesianNet, *callbacks: bp.Callback, epochs: int = 2, **kwargs: object) -> bp.History:
    batches = list(zip(X.split(24), Y.split(24), strict=True))
    settings: dict[str, Any] = {"lr": 0.01, "seed": 1, "progress": False, **kwargs}
    return bp.fit(bp.classify(bnet, 48), bnet.guide, batches, epochs=epochs, callbacks=callbacks, **settings)


class Diary(bp.Callback):
    def __init__(self, stop: int = 0) -> None:
        self.said: list[str] = []
        self.stop = stop

    def on_start(self, run: Run) -> None:
        self.said.append(f"start {run.step}")

    def on_gradient(self, run: Run) -> None:
        self.said.append(f"gradient {run.step}")

    def on_step(self, run: Run) -> None:
        self.said.append(f"step {run.step}")
        if run.step == self.stop:
            raise KeyboardInterrupt

    def on_epoch(self, run: Run) -> None:
        self.said.append(f"epoch {run.step}")

    def on_end(self, run: Run) -> None:
        self.said.append(f"end {run.step}")


FIRST = ["start 0", "gradient 0", "step 1", "gradient 1", "step 2", "epoch 2"]


def test_each_hook_has_its_moment(tmp_path: Path) -> None:
    diary, stopped, resumed, finished = Diary(), Diary(stop=3), Diary(), Diary()
    fit(small(), diary)
    second = ["gradient 2", "step 3", "gradient 3", "step 4", "epoch 4", "end 4"]
    assert diary.said == [*FIRST, *second]
    fit(small(), stopped, checkpoint=tmp_path / "run")
    assert stopped.said == [*FIRST, "gradient 2", "step 3", "end 3"]
    fit(small(), resumed, checkpoint=tmp_path / "run")
    assert resumed.said == ["start 2", *second]
    fit(small(), finished, checkpoint=tmp_path / "run")
    assert finished.said == []  # nothing is left to do


def test_on_gradient_sees_the_gradient_and_may_change_it() -> None:
    class Hold(bp.Callback):
        seen = 0.0

        def on_gradient(self, run: Run) -> None:
            loc = run.bnet.posteriors["0.weight"].get_parameter("loc")
            assert loc.grad is not None
            self.seen += loc.grad.abs().sum().item()
            loc.grad.zero_()

    bnet, hold = small(), Hold()
    before = bnet.means()
    fit(bnet, hold)
    assert hold.seen > 0
    assert torch.equal(bnet.means()["0.weight"], before["0.weight"])
    assert not torch.equal(bnet.means()["0.bias"], before["0.bias"])


def test_what_on_end_changes_is_in_the_last_checkpoint(tmp_path: Path) -> None:
    class Cut(bp.Callback):
        def on_end(self, run: Run) -> None:
            run.prune({"0.weight": torch.eye(3, 6, dtype=torch.bool)})

    one, two = small(), small()
    history = fit(one, Cut(), checkpoint=tmp_path / "run")
    assert history.kept == [1.0, 3 / 18]
    again = fit(two, checkpoint=tmp_path / "run")
    assert again.kept == history.kept
    assert torch.equal(two.means()["0.weight"], one.means()["0.weight"])
