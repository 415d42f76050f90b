"""Validation of a fit: how the posterior mean does on data that are held out, and stopping when it no longer gains."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from accelerate.utils import send_to_device
from torch.utils._pytree import tree_map

from bayesprune.fitting.batches import pair
from bayesprune.likelihoods.batch import call
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.pruning.callback import Callback, Run

__all__ = ["EarlyStopping", "validate"]

Metric = Literal["val_nll", "val_error", "nll"]


@torch.no_grad()
def validate(bnet: BayesianNet, loader: Iterable[Any]) -> dict[str, float | None]:
    """``val_nll`` and ``val_error`` of the posterior mean, as :class:`bayesprune.Epoch` has them; no generator moves.

    Raises:
        ValueError: nothing says what the net's output means, or the data have no targets.
    """
    likelihood, training = bnet.observation, bnet.training
    if likelihood is None:
        raise ValueError(
            "validation data need a likelihood, and a model that is a function has none: bp.classify(bnet), "
            "bp.regress(bnet) or bp.supervise(bnet, size, likelihood) makes one"
        )
    device, means = next(iter(bnet.parameters())).device, bnet.means()
    nll = wrong = 0.0
    seen = labels = 0
    bnet.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            for batch in loader:
                x, y = send_to_device(pair(bnet, batch), device)
                output, y = likelihood.kept(call(partial(bnet.run, means), x), y)
                found = likelihood.losses(tree_map(lambda part: part[None], output), y)
                nll, seen = nll + float(found.nll.double().sum()), seen + len(found.nll)
                if found.wrong is not None:
                    wrong, labels = wrong + float(found.wrong.sum()), labels + len(found.wrong)
    finally:
        bnet.train(training)
    if not seen:
        raise ValueError("the validation data hold no batches")
    return {"val_nll": nll / seen, "val_error": wrong / labels if labels else None}


@dataclass
class EarlyStopping(Callback):
    """Stop a fit whose metric has not become better for some epochs.

    While a schedule prunes and the KL comes in, the metric gets worse by design: nothing is counted before ``start``.
    The net stays as it is at the end; nothing is put back.

    Args:
        patience: how many epochs may pass without a gain.
        metric: ``"val_nll"`` or ``"val_error"``, for which ``fit`` needs ``val=``, or the training data's ``"nll"``.
        start: from which fraction of the run on; by default when :class:`bayesprune.Cubic` is done.
        least: by how much it has to fall to have become better.

    Raises:
        ValueError: an argument out of range; in the fit, a metric that it does not have.

    >>> EarlyStopping(patience=3).metric
    'val_nll'
    """

    patience: int = 5
    metric: Metric = "val_nll"
    start: float = 0.75
    least: float = 0.0
    _best: float = field(default=float("inf"), init=False, repr=False)
    _since: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience is a number of epochs ≥ 1, got {self.patience!r}")
        if self.metric not in get_args(Metric):
            raise ValueError(f"metric is one of {get_args(Metric)}, got {self.metric!r}")
        if not 0 <= self.start < 1 or not self.least >= 0:
            raise ValueError(f"start is in [0, 1) and least ≥ 0, got start={self.start!r}, least={self.least!r}")

    def on_start(self, run: Run) -> None:
        self._best, self._since = float("inf"), 0

    def on_epoch(self, run: Run) -> None:
        now: float | None = getattr(run.history.epochs[-1], self.metric)
        if now is None:
            what = "validation data, val=" if self.metric == "val_nll" else "validation data of labels, val="
            raise ValueError(f"EarlyStopping goes by {self.metric!r}, for which fit needs {what}")
        if run.progress < self.start:
            return
        better = now < self._best - self.least
        self._best, self._since = (now, 0) if better else (self._best, self._since + 1)
        if self._since >= self.patience:
            run.stop()
