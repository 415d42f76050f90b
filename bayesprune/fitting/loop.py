"""The training loop: prepare, step, epoch, save; maximises the ELBO, on Accelerate."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

import bayesprune
from bayesprune.fitting.batches import (
    check_inputs,
    check_loader,
    check_size,
    count_batches,
    count_data,
    count_examples,
    pair,
    usual,
)
from bayesprune.fitting.checkpoints import Checkpoints
from bayesprune.fitting.devices import place
from bayesprune.fitting.elbo import MeanFieldELBO, ramp
from bayesprune.fitting.fingerprint import data_fingerprint, net_fingerprint, said
from bayesprune.fitting.finite import first_not_finite, gradients, total
from bayesprune.fitting.generators import generators_of, give_way
from bayesprune.fitting.given import net_under
from bayesprune.fitting.history import Epoch, History
from bayesprune.fitting.optimizers import OptimizerFactory, adam, half_then_linear
from bayesprune.fitting.scales import check_scales
from bayesprune.fitting.snapshot import misfits, optimizer_state, random_states, set_optimizer_state, set_random_states
from bayesprune.fitting.supervised import SupervisedModel
from bayesprune.fitting.tracking import finish, note
from bayesprune.fitting.validation import validate
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.pruning.callback import Callback, Run

__all__ = ["Loop", "Settings"]


_UNDER_WAY: WeakKeyDictionary[BayesianNet, int] = WeakKeyDictionary()
"""Which thread fits a net at the moment."""


@dataclass(frozen=True)
class Settings:
    """What a fit is asked for, as :func:`bayesprune.fit` says it.

    Raises:
        ValueError: one out of range.
    """

    epochs: int
    lr: float = 1e-3
    optimizer: OptimizerFactory = adam
    decay: Callable[[float], float] = half_then_linear
    warmup: float | None = None
    seed: int | None = None
    device: torch.device | str | None = None
    autocast: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise ValueError(f"epochs is an integer ≥ 1, got {self.epochs!r}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is a finite learning rate > 0, got {self.lr!r}")
        if self.warmup is not None and not self.warmup >= 0:
            raise ValueError(f"warmup is a number of epochs ≥ 0, got {self.warmup!r}")
        for quarter in range(5):
            self.factor(quarter / 4)
        if self.autocast not in (None, "no", "bf16"):
            raise ValueError(f"autocast is 'bf16', 'no' or None, got {self.autocast!r}")

    def factor(self, progress: float) -> float:
        """The factor on all learning rates. Raises ``ValueError`` where ``decay`` gives no number from 0 on."""
        found = self.decay(progress)
        if not 0 <= found < math.inf:
            raise ValueError(f"decay gives a finite factor ≥ 0 on the learning rate, got {found!r} at {progress:g}")
        return found

    def kl_weight(self, epoch: float) -> float:
        """The factor on the KL when ``epoch`` epochs are done: linear from 1e-3 to 1 over the warm-up."""
        warmup = 0.4 * self.epochs if self.warmup is None else self.warmup
        return ramp(epoch, warmup)


class Loop:
    """A fit under way: made ready by its constructor, carried out by :meth:`run`.

    Args:
        model, guide, loader: as :func:`bayesprune.fit` takes them.
        settings: what it is asked for.
        prune: the schedule, the first of the callbacks; a checkpoint knows it.
        callbacks: called in this order.
        val: batches to validate on after each epoch.
        trackers: what :func:`bayesprune.fitting.tracking.tracked_by` gave.

    Attributes:
        progress: what callbacks see.
        history: what was seen, epoch by epoch.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        loader: Iterable[Any],
        settings: Settings,
        prune: Callback | None = None,
        callbacks: Sequence[Callback] = (),
        val: Iterable[Any] | None = None,
        trackers: Mapping[str, Any] | None = None,
    ) -> None:
        check_loader(loader)
        self.settings, self.prune, self.history = settings, prune, History()
        self.callbacks = [*([] if prune is None else [prune]), *callbacks]
        if isinstance(model, SupervisedModel):
            model.speak()
        self.elbo = MeanFieldELBO()
        bound: nn.Module = self.elbo(model, guide)
        self.bnet = net_under(model, guide)
        if self.bnet not in bound.modules():
            bound.bnet = self.bnet  # the model is a plain function: its parameters are found through the guide
        self.val, self.trackers = val, dict(trackers or {})
        self.accelerator = Accelerator(device_placement=False, **self.trackers)
        many = self.accelerator.num_processes > 1
        self.device = self.accelerator.device if many else place(settings.device, self.bnet)
        bound.to(self.device)
        if settings.autocast is not None:  # the innermost autocast wins: over Accelerate's, and over one around
            enabled = settings.autocast == "bf16"
            bound.forward = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)(bound.forward)
        self.loader = self.accelerator.prepare(loader) if isinstance(loader, DataLoader) and many else loader
        self.batches = count_batches(self.loader)
        optimizer = settings.optimizer(self.bnet.parameter_groups(settings.lr, bound))
        self.progress = Run(self.bnet, optimizer, steps=settings.epochs * self.batches, history=self.history)
        self.schedule = LambdaLR(optimizer, lambda step: settings.factor(min(step / self.progress.steps, 1.0)))
        self.bound, self.optimizer = self.accelerator.prepare(bound, optimizer)
        self.size = _size(model, self.bnet, loader)
        self.sums = torch.zeros(3, dtype=torch.float64, device="cpu")  # of an epoch: NLL, KL and how many

    def run(self, checkpoint: Path | None = None) -> History:
        """Fit, from the checkpoint if there is one.

        Raises:
            ValueError: another thread is fitting this net.
        """
        before = _UNDER_WAY.setdefault(self.bnet, get_ident())
        if before != get_ident():
            raise ValueError("this net is being fitted in another thread: give each thread a BayesianNet of its own")
        try:
            return self._run(checkpoint)
        finally:
            _UNDER_WAY.pop(self.bnet, None)

    def _run(self, checkpoint: Path | None) -> History:
        self.bound.train()
        kept = None if checkpoint is None else self._checkpoints(checkpoint)
        if kept is not None:
            self._resume(kept)
        done = len(self.history.epochs)
        if done >= self.settings.epochs or self.history.stopped:
            return self.history
        try:
            if self.trackers:
                self.accelerator.init_trackers("bayesprune", config=self._config())
            self._tell("on_start")
            for epoch in range(done, self.settings.epochs):
                self.epoch(epoch, first=epoch == done)
                if kept is not None:
                    self.save(kept)
                if self.history.stopped:
                    break
        except KeyboardInterrupt:
            self.history.interrupted = True
            self._tell("on_end")
        finally:
            finish(self.accelerator)
            self.optimizer.zero_grad()  # a gradient left behind would be added to whatever trains these parameters next
        return self.history

    def epoch(self, epoch: int, first: bool) -> None:
        """Run once through the data, and note it in the history; the inputs of the ``first`` are checked."""
        started, run = time.perf_counter(), self.progress
        run.epoch = epoch + 1
        self.sums.zero_()
        for i, batch in enumerate(self.loader):
            x, y = pair(self.bnet, batch)
            if first:
                check_inputs(x, i)
            if run.step == 0:
                check_scales(self.bnet, self.loader, batch)
            self.step(x, y, f"epoch {epoch + 1}, batch {i}")
            give_way()
            if run.stopped:
                break
        nll, kl, _ = (self.sums / self.sums[2]).tolist()
        held_out = {} if self.val is None else validate(self.bnet, self.val)
        seconds = time.perf_counter() - started
        found = Epoch(epoch + 1, nll, kl, self.elbo.kl_weight, _kept(self.bnet), seconds, **held_out)
        self.history.epochs.append(found)
        self._tell("on_epoch")
        self.history.stopped = run.stopped
        if epoch + 1 == self.settings.epochs or run.stopped:
            self._tell("on_end")
        self._check_parameters(epoch)
        self.bnet.epochs += 1
        seconds = time.perf_counter() - started
        self.history.epochs[-1] = found = replace(found, kept=_kept(self.bnet), seconds=seconds)  # callbacks may prune
        note(self.accelerator, {**found.to_dict(), "lr": run.lr}, found.epoch)

    def step(self, x: Any, y: Any, where: str) -> None:
        """One step of the optimiser, and of the learning rate's schedule.

        Raises:
            FloatingPointError: the loss or a gradient is not finite; the parameters are those before.
        """
        elbo, run = self.elbo, self.progress
        run.lr = self.settings.lr * self.settings.factor(min(run.step / run.steps, 1.0))
        elbo.kl_weight = self.settings.kl_weight(run.step / self.batches)
        self.optimizer.zero_grad()
        loss = self.bound(*tree_map(usual, send_to_device((x, y), self.device)))
        n = self.size or count_examples(x, y) * self.batches
        with torch.autocast(self.device.type, enabled=False):  # backward, products are of forward's types
            self.accelerator.backward(loss / n)
        named = gradients(self.bound)
        norm = total(gradient for _, gradient in named).to(elbo.kl)
        # one look at the device for all four
        seen = torch.stack([elbo.nll / n, elbo.kl, torch.ones_like(elbo.kl), norm]).double().cpu()
        self.sums += seen[:3]
        run.nll, run.kl = seen[:2].tolist()
        run.loss = run.nll + elbo.kl_weight * run.kl / n
        if not bool(torch.isfinite(self.sums[:2]).all()):
            raise FloatingPointError(
                f"the loss is {float(loss.detach()):g} in {where}: lower lr={self.settings.lr:g}, or look at the data "
                "and the start"
            )
        if not math.isfinite(seen[3]) and (name := first_not_finite(named)) is not None:
            raise FloatingPointError(
                f"the gradient of {name!r} is not finite in {where}, though the loss is: look for a square root, a "
                f"logarithm or a division at 0, or lower lr={self.settings.lr:g}; the parameters are those before "
                f"step {run.step + 1}"
            )
        self._tell("on_gradient")
        self.optimizer.step()
        run.step += 1
        self.schedule.step()
        self._tell("on_step")

    def save(self, kept: Checkpoints) -> None:
        """Write the state of the run among its checkpoints."""
        net = self.accelerator.unwrap_model(self.bound)
        shared = {
            "net": dict(net.state_dict()),
            "optimizer": optimizer_state(self.progress.optimizer, net),
            "schedule": self.schedule.state_dict(),
            "history": self.history.to_dict(),
        }
        kept.save(len(self.history.epochs), shared, random_states(generators_of(self.loader)))

    def load(self, kept: Checkpoints) -> bool:
        """Go on from the last checkpoint, if there is one; says whether there was. A refused one changes nothing."""
        found = kept.load()
        if found is None:
            return False
        done, shared, own = found
        net = self.accelerator.unwrap_model(self.bound)
        if apart := misfits(net, self.progress.optimizer, shared):
            raise kept.refuse("; ".join(apart))
        if done > self.settings.epochs:
            raise kept.refuse(f"it has done {done} epochs, and epochs={self.settings.epochs} asks for fewer")
        set_optimizer_state(self.progress.optimizer, net, shared["optimizer"])
        net.load_state_dict(shared["net"])
        self.schedule.load_state_dict(shared["schedule"])
        self.history.load_state_dict(shared["history"])
        set_random_states(generators_of(self.loader), own)
        self.progress.step = done * self.batches
        return True

    def fingerprint(self) -> dict[str, Any]:
        """Whose checkpoints these are: all that decides what comes out, but how many epochs it goes on for."""
        settings, optimizer = self.settings, self.progress.optimizer
        options = [{k: v for k, v in g.items() if k not in ("params", "lr")} for g in optimizer.param_groups]
        return {
            "bayesprune": bayesprune.__version__,
            "seed": settings.seed,
            "lr": settings.lr,
            "optimizer": type(optimizer).__name__,
            "the optimizer's options": said(options),
            "decay": [settings.factor(done / 4) for done in range(5)],
            "warmup": settings.warmup,
            "autocast": settings.autocast,
            "prune": said(self.prune),
            "size": self.size,
            "batches an epoch": self.batches,
            "batch size": getattr(self.loader, "batch_size", None),
            "data": data_fingerprint(self.loader),
            "processes": self.accelerator.num_processes,
            **net_fingerprint(self.bnet),
        }

    def _checkpoints(self, folder: Path) -> Checkpoints:
        accelerator = self.accelerator
        return Checkpoints(folder, self.fingerprint(), accelerator.process_index, accelerator.wait_for_everyone)

    def _resume(self, kept: Checkpoints) -> None:
        if not self.load(kept):
            self.save(kept)  # what cannot be written is known before the training, not after it

    def _check_parameters(self, epoch: int) -> None:
        """Raise ``FloatingPointError`` where a step left a number that is not finite: it is not saved."""
        named = [(name, p) for name, p in self.bound.named_parameters() if p.requires_grad and p.numel()]
        if not math.isfinite(total(p for _, p in named)) and (name := first_not_finite(named)) is not None:
            raise FloatingPointError(
                f"{name!r} is not finite after epoch {epoch + 1}, though its gradients are: lower "
                f"lr={self.settings.lr:g}"
            )

    def _config(self) -> dict[str, Any]:
        """The settings that are numbers or words, for trackers."""
        told = {**vars(self.settings), "prune": None if self.prune is None else said(self.prune), "size": self.size}
        return {name: value for name, value in told.items() if isinstance(value, (bool, int, float, str))}

    def _tell(self, hook: str) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self.progress)


def _size(model: Any, bnet: BayesianNet, loader: Any) -> int | None:
    """How many examples a model takes the data set to have: as it was told, or else counted and told to it."""
    if isinstance(model, SupervisedModel) and model.counts:
        model.size = count_data(bnet, loader)
    size: int | None = getattr(model, "size", None)
    if size is not None:
        check_size(loader, size)
    return size


def _kept(bnet: BayesianNet) -> float:
    counts = [(int(p.entries().sum()), math.prod(p.layout.shape)) for p in bnet.posteriors.values()]
    total = sum(n for _, n in counts)
    return sum(k for k, _ in counts) / total if total else 1.0
