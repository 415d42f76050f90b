"""What a fit shows on the way: figures to callbacks, validation, early stopping, trackers, a history as a frame."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.tracking import GeneralTracker, on_main_process
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.evaluation import score
from bayesprune.fitting.validation import validate

X, Y = torch.randn(48, 6, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3
HELD = torch.randn(20, 6, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3


def small() -> bp.BayesianNet:
    torch.manual_seed(0)
    return bp.BayesianNet(nn.Sequential(nn.Linear(6, 3)), {"*.weight": bp.SparseVD()})


def fit(bnet: bp.BayesianNet, *callbacks: bp.Callback, epochs: int = 4, **kwargs: Any) -> bp.History:
    batches = list(zip(X.split(24), Y.split(24), strict=True))
    settings: dict[str, Any] = {"lr": 0.01, "seed": 1, "progress": False, **kwargs}
    return bp.fit(bp.classify(bnet, 48), batches, epochs=epochs, callbacks=callbacks, **settings)


class Look(bp.Callback):
    def __init__(self) -> None:
        self.steps: list[tuple[float, ...]] = []
        self.epochs: list[tuple[int, int, float]] = []

    def on_step(self, run: bp.Run) -> None:
        self.steps.append((run.epoch, run.lr, run.loss, run.nll, run.kl))

    def on_epoch(self, run: bp.Run) -> None:
        self.epochs.append((run.epoch, len(run.history.epochs), run.history.epochs[-1].nll))


def test_callbacks_see_the_figures_of_the_step_and_the_history() -> None:
    look = Look()
    history = fit(small(), look, warmup=0)
    assert [step[0] for step in look.steps] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [step[1] for step in look.steps] == pytest.approx([0.01] * 5 + [0.0075, 0.005, 0.0025])
    for i, epoch in enumerate(history.epochs):
        ours = look.steps[2 * i : 2 * i + 2]
        assert sum(nll for *_, nll, _ in ours) / 2 == pytest.approx(epoch.nll)
        assert sum(kl for *_, kl in ours) / 2 == pytest.approx(epoch.kl)
    assert all(loss == pytest.approx(nll + kl / 48) for _, _, loss, nll, kl in look.steps)
    assert look.epochs == [(i + 1, i + 1, epoch.nll) for i, epoch in enumerate(history.epochs)]


def test_a_callback_can_stop_the_run(tmp_path: Path) -> None:
    class Enough(bp.Callback):
        ended = 0

        def on_step(self, run: bp.Run) -> None:
            if run.step == 3:
                run.stop()

        def on_end(self, run: bp.Run) -> None:
            self.ended += 1

    enough, bnet = Enough(), small()
    history = fit(bnet, enough, checkpoint=tmp_path)
    assert history.stopped and not history.interrupted
    assert len(history.epochs) == bnet.epochs == 2 and enough.ended == 1
    again = fit(small(), enough, checkpoint=tmp_path)  # it was stopped, not killed: nothing is left to do
    assert again.stopped and len(again.epochs) == 2 and enough.ended == 1


def test_validation_scores_the_posterior_mean_and_changes_nothing() -> None:
    plain, watched = small(), small()
    fit(plain)
    history = fit(watched, val=DataLoader(TensorDataset(*HELD), batch_size=7))
    assert all(torch.equal(value, watched.means()[name]) for name, value in plain.means().items())
    logits = watched.run(watched.means(), HELD[0])
    found = score(watched.observation, logits[None], HELD[1])
    assert history.epochs[-1].val_nll == pytest.approx(found.nll, rel=1e-5)
    assert history.epochs[-1].val_error == pytest.approx(found.error)
    assert fit(small()).epochs[-1].val_nll is None
    assert watched.training


def test_validation_of_numbers_has_no_error() -> None:
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(6, 1)), {"0.weight": bp.Gaussian()})
    history = bp.fit(bp.regress(bnet), (X, X[:, :1]), epochs=1, val=(X, X[:, :1]), progress=False)
    assert history.epochs[0].val_error is None and math.isfinite(history.epochs[0].val_nll or math.nan)


class Falling(bp.Callback):
    """Puts figures of its own into the history."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def on_epoch(self, run: bp.Run) -> None:
        epoch = run.history.epochs[-1]
        object.__setattr__(epoch, "val_nll", self.values[epoch.epoch - 1])


@pytest.mark.parametrize(
    ("values", "stops_after"),
    [([5, 4, 3, 3, 3, 3, 3, 3], 5), ([5, 6, 7, 8, 9, 9, 9, 9], 3), ([8, 7, 6, 5, 4, 3, 2, 1], 8)],
)
def test_early_stopping_waits_for_its_patience(values: list[float], stops_after: int) -> None:
    history = fit(small(), Falling(values), bp.EarlyStopping(patience=2, start=0.0), epochs=8, val=HELD)
    assert len(history.epochs) == stops_after
    assert history.stopped == (stops_after < 8)


def test_early_stopping_counts_nothing_before_pruning_is_done() -> None:
    rising = Falling([float(i) for i in range(8)])
    history = fit(small(), rising, bp.EarlyStopping(patience=1), epochs=8, val=HELD, prune=bp.Cubic(keep=0.5))
    assert len(history.epochs) == 7  # the first that counts is the sixth
    assert history.kept[-1] == pytest.approx(0.5, abs=0.03)


class Kept(GeneralTracker):
    name = "kept"
    requires_logging_directory = False

    @on_main_process
    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.rows: list[tuple[int | None, dict[str, Any]]] = []
        self.finished = False

    @property
    def tracker(self) -> Any:
        return self

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None, **kwargs: Any) -> None:
        self.rows.append((step, values))

    @on_main_process
    def finish(self) -> None:
        self.finished = True


def test_a_tracker_is_told_each_epoch() -> None:
    tracker = Kept()
    history = fit(small(), log_with=tracker, val=HELD, epochs=3)
    assert [step for step, _ in tracker.rows] == [1, 2, 3]
    assert [row["nll"] for _, row in tracker.rows] == history.nll
    assert {"kl", "kept", "lr", "val_nll", "val_error"} <= tracker.rows[0][1].keys()
    assert tracker.config["epochs"] == 3 and tracker.config["lr"] == 0.01
    assert tracker.finished


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a tracker nobody knows": ({"log_with": "tensorbord"}, ValueError, "tensorboard, wandb.*got 'tensorbord'"),
    "a tracker not installed": ({"log_with": "swanlab"}, ValueError, "'swanlab': its package is not inst"),
    "validation without targets": ({"val": X}, ValueError, r"a batch is \(x, y\)"),
    "validation without data": ({"val": []}, ValueError, "validation data hold no batches"),
    "early stopping without data": ({"callbacks": [bp.EarlyStopping()]}, ValueError, "'val_nll', for which fit needs"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_watched_is_a_clear_error(what: str) -> None:
    given, kind, words = WRONG[what]
    bnet = small()
    with pytest.raises(kind, match=words):
        bp.fit(bp.classify(bnet), (X, Y), **{"epochs": 1, "progress": False, **given})


def test_a_function_of_ones_own_says_that_validation_needs_a_likelihood() -> None:
    def model(x: Tensor, y: Tensor | None = None) -> None:
        bnet(x)

    bnet = small()
    with pytest.raises(ValueError, match=r"validation data need a likelihood.*bp\.classify"):
        validate(bnet, [HELD])
    with pytest.raises(ValueError, match="validation data need a likelihood"):
        bp.fit(model, bnet.guide, [(X, Y)], epochs=1, val=HELD, progress=False)


@pytest.mark.parametrize("given", [{"patience": 0}, {"metric": "loss"}, {"start": 1.0}, {"least": -1.0}], ids=str)
def test_early_stopping_checks_its_arguments(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        bp.EarlyStopping(**given)


def test_a_history_is_a_frame_and_reads_well() -> None:
    history = fit(small(), val=HELD)
    frame = history.to_frame()
    assert frame["epoch"].tolist() == [1, 2, 3, 4] and frame["nll"].tolist() == history.nll
    assert frame["val_nll"].iloc[-1] == history.epochs[-1].val_nll
    assert repr(history).startswith("History(4 epochs in ") and "val error" in repr(history)
    assert len(repr(history)) < 160 and repr(bp.History()) == "History(no epochs)"
    assert "val_nll" not in fit(small()).to_frame()
