"""The training loop: maximise the ELBO, on Accelerate."""

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from bayesprune.fitting.checkpoints import Loose, load_checkpoint, save_checkpoint
from bayesprune.fitting.elbo import MeanFieldELBO
from bayesprune.fitting.history import Epoch, History
from bayesprune.fitting.likelihoods import parted
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.pruning.callback import Callback, Run

__all__ = ["check_device", "fit"]

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


def half_then_linear(progress: float) -> float:
    """The default learning-rate factor: 1 for the first half of the run, then linear to 0."""
    return min(1.0, 2 * (1 - progress))


def fit(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    loader: Iterable[Any],
    *,
    epochs: int,
    lr: float = 1e-3,
    optimizer: OptimizerFactory | None = None,
    decay: Callable[[float], float] = half_then_linear,
    warmup: float | None = None,
    prune: Callback | None = None,
    callbacks: Sequence[Callback] = (),
    seed: int | None = None,
    device: torch.device | str | None = None,
    precision: str | None = None,
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
) -> History:
    """Maximise the evidence lower bound.

    Args:
        model: a Pyro model, such as :func:`bayesprune.classify` gives; called as ``model(x, y)``.
        guide: its guide, ``bnet.guide``.
        loader: any iterable over batches ``(x, y)`` that can be run through more than once; a ``DataLoader``.
        epochs: how often to run through it.
        lr: the learning rate of weights; a posterior's other parameters take it times its own ``rates``.
        optimizer: parameter groups (each with its ``lr``) → optimiser; Adam by default.
        decay: progress in [0, 1] → factor on all learning rates.
        warmup: epochs over which the KL's factor rises linearly to 1; 40 % of ``epochs`` by default.
        prune: a schedule such as :class:`bayesprune.Cubic`.
        callbacks: more of the kind, called after ``prune``.
        seed: fixes draws and shuffling of this run, and leaves the global generators as they were.
        device: where to fit; by default where the parameters are.
        precision: ``"bf16"`` runs the net under autocast, its products in bfloat16, while parameters, KL and
            log-probabilities stay in float32; ``"no"`` does not. By default what Accelerate's environment or a
            ``torch.autocast`` around the call says, else ``"no"``.
        checkpoint: a folder written after each epoch, atomically; a run that finds one there resumes from it.
        progress: whether to show a bar on stderr; by default if that is a terminal, or a notebook with
            ipywidgets.

    Returns:
        NLL, KL and kept fraction per epoch. After Ctrl-C the fit ends with what it has, ``interrupted`` set.

    Raises:
        ValueError: no batches, NaN in the data, an argument out of range, a device that is not there, or a
            ``checkpoint`` that holds something else than a checkpoint of this run.
        FloatingPointError: the loss is no longer finite; the parameters are those before that step.
    """
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs is an integer ≥ 1, got {epochs!r}")
    if not lr > 0:
        raise ValueError(f"lr is a learning rate > 0, got {lr!r}")
    warmup = 0.4 * epochs if warmup is None else warmup
    if not warmup >= 0:
        raise ValueError(f"warmup is a number of epochs ≥ 0, got {warmup!r}")
    if precision not in (None, "no", "bf16"):
        raise ValueError(f"precision is 'bf16', 'no' or None, got {precision!r}")
    if isinstance(loader, Iterator):
        raise ValueError("the loader is a one-pass iterator: give a DataLoader or a list, which can be read each epoch")
    elbo = MeanFieldELBO()
    bound: nn.Module = elbo(model, guide)
    bnet = _bayesian_net(bound, guide)
    accelerator = Accelerator(device_placement=False)
    where = accelerator.device if accelerator.num_processes > 1 else _place(device, bnet)
    bound.to(where)
    if precision is not None:  # the innermost autocast wins: over Accelerate's, and over one around
        autocast = torch.autocast(where.type, dtype=torch.bfloat16, enabled=precision == "bf16")
        bound.forward = autocast(bound.forward)
    if isinstance(loader, DataLoader) and accelerator.num_processes > 1:
        loader = accelerator.prepare(loader)
    per_epoch = len(loader) if isinstance(loader, Sized) else sum(1 for _ in loader)
    if per_epoch == 0:
        raise ValueError("the loader holds no batches")
    make = partial(torch.optim.Adam, fused=True) if optimizer is None else optimizer
    opt = make(_parameter_groups(bound, bnet, lr))
    run = Run(bnet, opt, steps=epochs * per_epoch)
    schedule = LambdaLR(opt, lambda step: decay(min(step / run.steps, 1.0)))
    bound, opt = accelerator.prepare(bound, opt)
    history = History()
    accelerator.register_for_checkpointing(history, schedule, Loose(bnet, loader))
    hooks = [c for c in (prune, *callbacks) if c is not None]
    size = getattr(model, "size", None)
    done = 0
    bound.train()
    with _seeded(seed), _bar(progress, epochs) as show:
        if checkpoint is not None and load_checkpoint(accelerator, Path(checkpoint)):
            done = len(history.epochs)
            run.step = done * per_epoch
            show(done, history)
        try:
            for epoch in range(done, epochs):
                started = time.perf_counter()
                sums = torch.zeros(3, dtype=torch.float64, device="cpu")
                for i, batch in enumerate(loader):
                    x, y = _pair(batch)
                    if epoch == done:
                        _check_batch(x, i)
                    elbo.temperature = _temperature(run.step / per_epoch, warmup)
                    opt.zero_grad()
                    loss = bound(*send_to_device((x, y), where))
                    n = size or _count(y) * per_epoch
                    sums += torch.stack([elbo.nll / n, elbo.kl, torch.ones_like(elbo.kl)]).double().cpu()
                    if not bool(torch.isfinite(sums[:2]).all()):
                        raise FloatingPointError(
                            f"the loss is {float(loss.detach()):g} in epoch {epoch + 1}, batch {i}: lower lr={lr:g}, "
                            "or look at the data and the start"
                        )
                    with torch.autocast(where.type, enabled=False):  # backward, products are of forward's types
                        accelerator.backward(loss / n)
                    opt.step()
                    run.step += 1
                    schedule.step()
                    for hook in hooks:
                        hook.on_step(run)
                for hook in hooks:
                    hook.on_epoch(run)
                nll, kl, _ = (sums / sums[2]).tolist()
                seconds = time.perf_counter() - started
                history.epochs.append(Epoch(epoch + 1, nll, kl, elbo.temperature, _kept(bnet), seconds))
                show(epoch + 1, history)
                if checkpoint is not None:
                    save_checkpoint(accelerator, Path(checkpoint))
        except KeyboardInterrupt:
            history.interrupted = True
        finally:
            opt.zero_grad()  # a gradient left behind would be added to whatever trains these parameters next
    return history


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Seed torch for a block, and put every global generator back afterwards; nothing without a seed."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            if seed is not None:  # a checkpoint sets these two as well
                random.setstate(states[0])
                np.random.set_state(states[1])


def _temperature(epoch: float, warmup: float) -> float:
    """The factor on the KL: linear from 1e-3 to 1 over the warm-up."""
    return 1.0 if warmup == 0 else min(1.0, max(1e-3, epoch / warmup))


def _bayesian_net(bound: nn.Module, guide: Any) -> BayesianNet:
    nets = {m for m in bound.modules() if isinstance(m, BayesianNet)}
    owner = getattr(guide, "__self__", None)
    if isinstance(owner, BayesianNet):
        if not nets:
            bound.bnet = owner  # the model is a plain function: its parameters are found through the guide
        nets.add(owner)
    if len(nets) != 1:
        raise ValueError(
            f"fit needs a model and guide over one BayesianNet, found {len(nets)}; pass bnet.guide as the guide"
        )
    return nets.pop()


def check_device(device: torch.device | str) -> torch.device:
    """The device, if it is there.

    Raises:
        ValueError: it is not, or the name means nothing.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ValueError(f"{device!r} names no device; say cpu, cuda, cuda:1 or mps") from None
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(wanted.type, True):
        raise ValueError(f"device {str(device)!r} was asked for, and torch finds none here; use device='cpu'")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {str(device)!r} was asked for, and torch finds {torch.cuda.device_count()} here")
    return wanted


def _place(device: torch.device | str | None, bnet: BayesianNet) -> torch.device:
    return next(iter(bnet.parameters()), torch.zeros(0)).device if device is None else check_device(device)


def _parameter_groups(bound: nn.Module, bnet: BayesianNet, lr: float) -> list[dict[str, Any]]:
    rate = {
        id(parameter): posterior.rates.get(leaf, 1.0)
        for posterior in bnet.posteriors.values()
        for leaf, parameter in posterior.named_parameters()
    }
    by_rate: dict[float, list[nn.Parameter]] = {}
    for parameter in bound.parameters():
        if parameter.requires_grad:
            by_rate.setdefault(rate.get(id(parameter), 1.0), []).append(parameter)
    if not by_rate:
        raise ValueError("nothing to fit: the model has no parameter that requires a gradient")
    return [{"params": parameters, "lr": lr * factor} for factor, parameters in by_rate.items()]


def _pair(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise ValueError(
            f"a batch is (x, y), or (x1, x2, …, y) for a net of several inputs; got {type(batch).__name__}"
        )
    return parted(batch)


def _count(y: Any) -> int:
    return max(len(y), 1) if isinstance(y, Sized) else 1


def _check_batch(x: Any, i: int) -> None:
    for tensor in x.values() if isinstance(x, Mapping) else x if isinstance(x, (tuple, list)) else [x]:
        if isinstance(tensor, Tensor):
            if len(tensor) == 0:
                raise ValueError(f"batch {i} is empty")
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"batch {i} holds NaN or infinity in its inputs: clean the data first")


def _kept(bnet: BayesianNet) -> float:
    counts = [(int(p.entries().sum()), math.prod(p.layout.shape)) for p in bnet.posteriors.values()]
    total = sum(n for _, n in counts)
    return sum(k for k, _ in counts) / total if total else 1.0


@contextmanager
def _bar(progress: bool | None, epochs: int) -> Iterator[Callable[[int, History], None]]:
    console = Console(stderr=True)
    shown = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    wanted = shown if progress is None else progress
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=not wanted)
    with bar if wanted else nullcontext():
        task = bar.add_task("fit", total=epochs)

        def show(done: int, history: History) -> None:
            if history.epochs:
                last = history.epochs[-1]
                words = f"fit  NLL {last.nll:.3f}  KL {last.kl:,.0f}  kept {last.kept:.1%}"
                bar.update(task, completed=done, description=words)

        yield show
