"""``fit``, the public function of the training loop: arguments checked, and the loop run."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from bayesprune._turns import turns
from bayesprune.fitting.generators import seeded
from bayesprune.fitting.history import History
from bayesprune.fitting.loop import Loop, Settings
from bayesprune.fitting.optimizers import OptimizerFactory, adam, half_then_linear
from bayesprune.fitting.progress import progress_bar
from bayesprune.pruning.callback import Callback

__all__ = ["fit"]


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
    autocast: str | None = None,
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
    precision: str | None = None,
) -> History:
    """Maximise the evidence lower bound.

    Args:
        model: a Pyro model, such as :func:`bayesprune.classify` gives; called as ``model(x, y)``.
        guide: its guide, ``bnet.guide``.
        loader: any iterable over batches ``(x, y)`` that can be run through more than once; a ``DataLoader``.
        epochs: how often to run through it.
        lr: the learning rate of weights; a posterior's other parameters take it times its own ``lr_multipliers``.
        optimizer: parameter groups (each with its ``lr``) → optimiser; Adam by default.
        decay: progress in [0, 1] → factor on all learning rates.
        warmup: epochs over which the KL's factor rises linearly to 1; 40 % of ``epochs`` by default.
        prune: a schedule such as :class:`bayesprune.Cubic`.
        callbacks: more of the kind, called after ``prune``.
        seed: fixes draws and shuffling of this run, and leaves the global generators as they were.
        device: where to fit; by default where the parameters are.
        autocast: ``"bf16"`` runs the net under autocast, its products in bfloat16, while parameters, KL and
            log-probabilities stay in float32; ``"no"`` does not. By default what Accelerate's environment or a
            ``torch.autocast`` around the call says, else ``"no"``.
        checkpoint: a folder in which a folder of ours holds the state after each of the last two epochs; a run that
            finds its own there resumes from it. No code in it is run, and the user's files in it are left alone.
        progress: whether to show a bar on stderr; by default if that is a terminal, or a notebook with
            ipywidgets.
        precision: the old name of ``autocast``.

    Threads take turns, one step at a time: a net that is predicted from meanwhile is as the last step left it, and with
    a ``seed`` a fit gives what it gives alone. Outside of the main thread, or beside another that is no daemon, its
    draws come from a generator of its own, at some microseconds an operator: what other code draws meanwhile changes
    nothing, but for draws on CUDA. A daemon that draws beside the main thread's fit is not noticed: make nets before.
    A callback or loader that waits for another thread's fit or prediction would wait for ever: the turn is this
    thread's until the step ends.

    Returns:
        NLL, KL and kept fraction per epoch. After Ctrl-C the fit ends with what it has, ``interrupted`` set.

    Raises:
        ValueError: no batches, NaN in the data, an argument out of range, a device that is not there, a net that
            another thread is fitting, or a ``checkpoint`` of another run (the difference is named), damaged, or with
            more epochs done than asked for.
        FloatingPointError: the loss or a gradient is no longer finite; the parameters are those before that step, and
            the last checkpoint stands.
        OSError: a checkpoint cannot be written; this is tried before training starts.
    """
    if precision is not None:
        warnings.warn("fit(precision=…) is called autocast now", DeprecationWarning, stacklevel=2)
        autocast = precision
    settings = Settings(epochs, lr, optimizer or adam, decay, warmup, seed, device, autocast)
    with turns.taken():
        loop = Loop(model, guide, loader, settings, prune, callbacks)
    with seeded(seed), progress_bar(progress, epochs) as show:
        return loop.run(None if checkpoint is None else Path(checkpoint), show)
