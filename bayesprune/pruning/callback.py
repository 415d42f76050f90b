"""Training callbacks: their base class, and what they see of a running fit."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.pruning.masking import EmptyLayerWarning

__all__ = ["Callback", "Run"]


@dataclass
class Run:
    """The state of a running fit, as callbacks see it.

    Attributes:
        bnet: the net that is being fitted.
        optimizer: the optimiser, whose state follows what is pruned.
        steps: how many steps the run will take.
        step: how many are done.
        epoch: which epoch is under way, from 1.
        lr: the learning rate of weights in the step under way; other parameters have multiples of it.
        loss, nll, kl: of the last batch: −ELBO and negative log-likelihood per example, and the whole KL without the
            warm-up's factor, nats.
        history: the :class:`bayesprune.History` of the epochs that are done; in ``on_epoch`` this one is among them.
        stopped: whether :meth:`stop` was called.
    """

    bnet: BayesianNet
    optimizer: torch.optim.Optimizer
    steps: int
    step: int = 0
    epoch: int = 0
    lr: float = math.nan
    loss: float = math.nan
    nll: float = math.nan
    kl: float = math.nan
    history: Any = None
    stopped: bool = False

    @property
    def progress(self) -> float:
        """The fraction of the run that is done, in [0, 1]."""
        return self.step / max(self.steps, 1)

    def stop(self) -> None:
        """End the run after this step: ``on_epoch`` and ``on_end`` still follow, and the checkpoint."""
        self.stopped = True

    @torch.no_grad()
    def prune(self, kept: Mapping[str, Tensor]) -> None:
        """Prune the net, and forget what the optimiser remembers of the weights that are gone.

        Warns:
            EmptyLayerWarning: a weight of which nothing is kept any more.
        """
        alive = {name for name, posterior in self.bnet.posteriors.items() if bool(posterior.kept.any())}
        self.bnet.prune(kept)
        for name, posterior in self.bnet.posteriors.items():
            if name in alive and not bool(posterior.kept.any()):
                warnings.warn(
                    f"nothing of {name!r} is kept after step {self.step} of {self.steps}: no signal passes it; keep "
                    "more, prune later, or give it a budget of its own with scope='layer'",
                    EmptyLayerWarning,
                    stacklevel=3,  # past no_grad's own frame
                )
            for leaf, parameter in posterior.named_parameters():
                mask = posterior.mask_of(leaf)
                if mask is None:
                    continue
                for memory in self.optimizer.state.get(parameter, {}).values():
                    if isinstance(memory, Tensor) and memory.shape == parameter.shape:
                        memory.mul_(mask)


class Callback:
    """Base class of training callbacks; each method does nothing unless overridden."""

    def on_start(self, run: Run) -> None:
        """Before the first step; ``run.step`` says how many a checkpoint had done."""

    def on_gradient(self, run: Run) -> None:
        """Between backward and the optimiser's step."""

    def on_step(self, run: Run) -> None:
        """After each optimiser step."""

    def on_epoch(self, run: Run) -> None:
        """After each epoch, which is the last in ``run.history``."""

    def on_end(self, run: Run) -> None:
        """After the last epoch, before its checkpoint is written; after :meth:`Run.stop` and Ctrl-C too."""
