"""``fit``, the public function of the training loop: arguments checked, and the loop run."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bayesprune._turns import turns
from bayesprune.fitting.generators import seeded
from bayesprune.fitting.given import batches_of, net_under
from bayesprune.fitting.history import History
from bayesprune.fitting.loop import Loop, Settings
from bayesprune.fitting.optimizers import OptimizerFactory, adam, half_then_linear
from bayesprune.fitting.progress import shown
from bayesprune.fitting.supervised import SupervisedModel
from bayesprune.fitting.tracking import tracked_by
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.pruning.callback import Callback

__all__ = ["fit"]


def fit(
    model: Callable[..., Any],
    guide: Any = None,
    loader: Any = None,
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
    val: Any = None,
    log_with: Any = None,
    log_dir: str | Path = "runs",
    precision: str | None = None,
) -> History:
    """Maximise the evidence lower bound.

    Args:
        model: a Pyro model, such as :func:`bayesprune.classify` gives; called as ``model(x, y)``. Or the net with its
            posterior itself, once such a model has said what its output means.
        guide: its guide, ``bnet.guide``. It may be left out where the model is a module that holds the net:
            ``fit(model, loader, epochs=10)``.
        loader: any iterable over batches ``(x, y)`` that can be run through more than once; a ``DataLoader``. A
            ``Dataset`` is shuffled into batches of 64, and a mapping or a tuple ``(x, y)`` of tensors is one batch.
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
        progress: whether to show on stderr how it goes; by default it is. On a terminal, or in a notebook with
            ipywidgets, that is a bar with the time that is left, elsewhere a line an epoch.
        val: data to validate on after each epoch, as ``loader``: the history then has ``val_nll`` and ``val_error``,
            and :class:`bayesprune.EarlyStopping` can go by them. It changes nothing in what is fitted.
        log_with: where each epoch's figures are logged, by name or several: ``"tensorboard"``, ``"wandb"``,
            ``"mlflow"``, or another of Accelerate's trackers.
        log_dir: the folder of trackers that write files.
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
        TypeError: what is given is no data, or ``prune`` no schedule.
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
    for callback in [*([] if prune is None else [prune]), *callbacks]:
        _check_callback(callback, "prune" if callback is prune else "callbacks")
    model, guide, loader = _taken_apart(model, guide, loader)
    settings = Settings(epochs, lr, optimizer or adam, decay, warmup, seed, device, autocast)
    with turns.taken():
        batches = batches_of(loader, scored=True, batch_size=64, shuffle=True)
        held_out = None if val is None else batches_of(val, scored=True)
        loop = Loop(model, guide, batches, settings, prune, callbacks, held_out, tracked_by(log_with, log_dir))
    with seeded(seed), shown(progress) as showing:
        loop.callbacks += showing
        return loop.run(None if checkpoint is None else Path(checkpoint))


def _check_callback(callback: Any, where: str) -> None:
    if not isinstance(callback, Callback):
        instead = "bp.Cubic(keep=0.1), which prunes while fitting to a tenth" if where == "prune" else "a bp.Callback"
        raise TypeError(f"{where} takes {instead}; got {callback!r:.80}")


def _taken_apart(model: Any, guide: Any, loader: Any) -> tuple[Any, Any, Any]:
    """Model, guide and data of ``fit(model, guide, loader)`` or ``fit(model, loader)``; the model may be a net."""
    if loader is None:
        guide, loader = None, guide
    if isinstance(model, BayesianNet):
        if model.observation is None:
            raise ValueError(
                "a BayesianNet alone does not say what its output means: fit bp.classify(bnet) for classes, "
                "bp.regress(bnet) for real numbers, or bp.supervise(bnet, None, likelihood) for other targets"
            )
        model = SupervisedModel(model, model.observation)
    return model, net_under(model).guide if guide is None else guide, loader
