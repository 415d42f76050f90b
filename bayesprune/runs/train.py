"""Carry out a recipe in a run folder, and open its results."""

import glob
import hashlib
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from safetensors.torch import load_file
from torch import Tensor, nn

from bayesprune._state_dicts import is_unset, set_buffer
from bayesprune.evaluation.prediction import known_observation
from bayesprune.fitting.devices import check_device
from bayesprune.fitting.door import fit
from bayesprune.fitting.history import History
from bayesprune.fitting.supervised import classify, regress
from bayesprune.likelihoods.batch import call, parted
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.network.extra import packed, unpacked
from bayesprune.pruning import Callback, Run
from bayesprune.runs.folder import RunFolder
from bayesprune.runs.recipe import Recipe
from bayesprune.runs.sources import Data, find_data, find_net

__all__ = [
    "Prepared",
    "example_of",
    "inputs_of",
    "open_data",
    "open_run",
    "prepare",
    "seeded",
    "threads_here",
    "train",
    "use_threads",
]

Say = Callable[[str], object]


@dataclass(frozen=True)
class Prepared:
    """A recipe whose net and data are there and fit each other."""

    recipe: Recipe
    net: nn.Module
    data: Data


def prepare(recipe: Recipe) -> Prepared:
    """Make a recipe's net and data, and check all that can be checked before training.

    The recipe that comes back has its rules and the checksum of ``start`` written out.

    Raises:
        ValueError: a net, data, rules or device that are not there or do not fit each other.
        FileNotFoundError: data or a checkpoint that are nowhere.
    """
    device = check_device(recipe.device)
    with seeded(recipe.seed):
        net = find_net(recipe.net)
        data = find_data(recipe.data, recipe.batch)
    if recipe.start is not None:
        recipe = recipe.but(start_sha256=_start(net, recipe))
    net.to(device)
    _check_takes(net, data, recipe)
    if not recipe.rules:
        weights = [n for n, p in net.named_parameters() if p.dim() > 1 and n.rpartition(".")[2].endswith("weight")]
        if not weights:
            raise ValueError(
                f"net {recipe.net!r} has no parameter called weight of two or more axes: say which, --rule"
            )
        recipe = recipe.but(rules=tuple(f"{glob.escape(name)}=SparseVD()" for name in weights))
    _bayesian(net, recipe)
    return Prepared(recipe, net, data)


def train(prepared: Prepared, folder: RunFolder, say: Say) -> History:
    """Fit a recipe's posterior in ``folder``, from the last checkpoint there if there is one.

    Raises:
        KeyboardInterrupt: it was interrupted; what was done by the last epoch's end is kept.
        FloatingPointError: the loss is no longer finite.
    """
    recipe, net = prepared.recipe, prepared.net
    with seeded(recipe.seed):
        if not folder.dense_file.exists():
            if recipe.pretrain:
                dense = BayesianNet(net, {})
                stage, lr = "training the dense net", recipe.pretrain_lr
                _fit(dense, prepared, folder, stage, say, epochs=recipe.pretrain, lr=lr)
                dense.write_into(net)
            folder.write_tensors(folder.dense_file, _tensors(net))
        _fill(net, folder.read_tensors(folder.dense_file)[0], folder.dense_file)
        if recipe.control and not folder.control_file.exists():
            longer = BayesianNet(net, {})
            stage = "training the dense control"
            _fit(longer, prepared, folder, stage, say, epochs=recipe.epochs, lr=recipe.lr)
            folder.write_tensors(folder.control_file, longer.state().values)
        bnet = _bayesian(net, recipe)
        settings: dict[str, Any] = {
            "epochs": recipe.epochs,
            "lr": recipe.lr,
            "warmup": recipe.warmup,
            "prune": recipe.schedule(),
        }
        history = _fit(bnet, prepared, folder, "fitting the posterior", say, **settings)
    about: dict[str, Any] = {"classifies": prepared.data.classifies, "size": prepared.data.size}
    about |= {**unpacked(bnet.get_extra_state()), "history": history.to_dict()}
    folder.write_json(folder.fit_file, about)
    folder.write_tensors(folder.posterior_file, _tensors(bnet))
    folder.finish()
    return history


def _fit(bnet: BayesianNet, prepared: Prepared, folder: RunFolder, stage: str, say: Say, **settings: Any) -> History:
    recipe, data, epochs = prepared.recipe, prepared.data, settings["epochs"]
    say(f"{stage}, {epochs} epochs")
    history = fit(
        _model(bnet, data.classifies, data.size),
        bnet.guide,
        data.train,
        callbacks=[_Progress(folder, stage, epochs)],
        seed=recipe.seed,
        device=recipe.device,
        autocast=recipe.precision,
        checkpoint=folder.checkpoint(stage),
        progress=None if sys.stderr.isatty() else False,
        **settings,
    )
    if history.interrupted:
        raise KeyboardInterrupt
    return history


def open_run(folder: RunFolder, device: str | None = None) -> tuple[Recipe, BayesianNet]:
    """The recipe and the fitted posterior of a finished run, on ``device`` or else where it was fitted.

    Raises:
        FileNotFoundError: no such folder, or no run in it.
        ValueError: the run is not finished, a file is damaged, or the net's code has changed since.
    """
    recipe = folder.check_run()
    with seeded(recipe.seed):
        net = find_net(recipe.net)
    net.to(check_device(device or recipe.device))
    _fill(net, folder.read_tensors(folder.dense_file)[0], folder.dense_file)
    bnet = _bayesian(net, recipe)
    about = folder.fit()
    _model(bnet, about.classifies, about.size)
    _fill(bnet, folder.read_tensors(folder.posterior_file)[0], folder.posterior_file)
    state = {"uses": about.uses, "sampled": about.sampled, "unpadded": about.unpadded}
    bnet.set_extra_state(packed({**state, "epochs": len(about.history.epochs)}))
    return recipe, bnet


def open_data(recipe: Recipe) -> Data:
    """The data of a recipe, as the fit saw them."""
    with seeded(recipe.seed):
        find_net(recipe.net)  # it may draw random numbers first
        return find_data(recipe.data, recipe.batch)


def example_of(data: Data, bnet: BayesianNet) -> Any:
    """The inputs of a batch of the data, on the net's device: what a plan is measured on."""
    batches = data.train if data.test is None else data.test
    return send_to_device(inputs_of(batches), next(iter(bnet.parameters())).device)


def inputs_of(batches: Iterable[Any]) -> Any:
    """The inputs of the first batch: a tensor, a tuple of several or a mapping."""
    return parted(next(iter(batches)))[0]


def use_threads(recipe: Recipe, threads: int | None = None) -> None:
    """Let torch have so many threads, or else as many as the fit had."""
    torch.set_num_threads(threads or recipe.threads)


def threads_here() -> int:
    """How many threads torch has."""
    return torch.get_num_threads()


class _Progress(Callback):
    """Notes each epoch in the run folder."""

    def __init__(self, folder: RunFolder, stage: str, epochs: int) -> None:
        self.folder, self.stage, self.epochs = folder, stage, epochs

    def on_epoch(self, run: Run) -> None:
        done = round(run.progress * self.epochs)
        self.folder.write_json(self.folder.progress_file, {"stage": self.stage, "epoch": done, "epochs": self.epochs})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed every global generator for a block, and put each back afterwards: nets and data may draw from any."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _bayesian(net: nn.Module, recipe: Recipe) -> BayesianNet:
    return BayesianNet(net, recipe.methods(), estimator=recipe.estimator)  # type: ignore[arg-type]


def _model(bnet: BayesianNet, classifies: bool, size: int) -> nn.Module:
    return (classify if classifies else regress)(bnet, size)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@torch.no_grad()
def _copy(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, x in _tensors(module).items():
        x.copy_(values[name])


def _fill(module: nn.Module, values: Mapping[str, Tensor], file: Path) -> None:
    if isinstance(module, BayesianNet):
        rest = "_rest."
        module.make_room({n.removeprefix(rest): x for n, x in values.items() if n.startswith(rest)})
    for name in [n for n in values if is_unset(module, n)]:
        set_buffer(module, name, values[name].to(next(module.parameters()).device))
    there = {name: tuple(x.shape) for name, x in _tensors(module).items()}
    found = {name: tuple(x.shape) for name, x in values.items()}
    if there != found:
        other = sorted({n for n in there.keys() | found.keys() if there.get(n) != found.get(n)})
        raise ValueError(f"{file} does not fit the recipe's net, whose code may have changed since: {', '.join(other)}")
    _copy(module, values)


def _start(net: nn.Module, recipe: Recipe) -> str:
    """Load the state dict that a recipe starts at; returns the file's checksum."""
    assert recipe.start is not None
    path = Path(recipe.start)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {recipe.start!r} to start at")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if recipe.start_sha256 not in (None, found):
        raise ValueError(f"{recipe.start} is not the file that the recipe started at: its checksum differs")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # safetensors, zip and pickle have errors of their own
        raise ValueError(
            f"{path} cannot be read as a state dict ({type(error).__name__}): write it with "
            "torch.save(net.state_dict(), path)"
        ) from error
    try:
        net.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"{path} does not fit net {recipe.net!r}: {first}") from error
    return found


def _check_takes(net: nn.Module, data: Data, recipe: Recipe) -> None:
    """Raise ``ValueError`` where the net cannot run on the first batch."""
    with seeded(recipe.seed):
        x, y = parted(next(iter(data.train)))
    modes = [(module, module.training) for module in net.modules()]
    try:
        with torch.no_grad():
            output = call(net.eval(), send_to_device(x, recipe.device))
    except Exception as error:  # whatever the net raises
        inputs = x.values() if isinstance(x, Mapping) else x if isinstance(x, tuple) else (x,)
        shape = " and ".join(str(tuple(part.shape[1:])) for part in inputs if isinstance(part, Tensor))
        raise ValueError(
            f"net {recipe.net!r} does not take inputs of shape {shape} of data {recipe.data!r} ({_first_line(error)}): "
            "give it arguments, as in --net 'lenet_300_100(inputs=64)'"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if type(output) is dict or not (isinstance(output, Tensor) or isinstance(logits, Tensor)):
        raise ValueError(
            f"net {recipe.net!r} returns a {type(output).__name__}, and a run needs one tensor, or Hugging Face's "
            "ModelOutput with logits: name a net that gives its predictions alone"
        )
    _check_targets(net, output, send_to_device(y, recipe.device), data, recipe)


@torch.no_grad()
def _check_targets(net: nn.Module, output: Any, y: Tensor, data: Data, recipe: Recipe) -> None:
    """Raise ``ValueError`` where the targets are not such as the net's output can be judged by, one for an example."""
    bnet = BayesianNet(net, {})
    _model(bnet, data.classifies, data.size)
    likelihood = known_observation(bnet)
    try:
        taken = likelihood.take(output)
    except ValueError as error:
        raise ValueError(f"net {recipe.net!r}: {error}") from None
    what = (
        f"net {recipe.net!r} on data {recipe.data!r}: an output of shape {tuple(taken.shape)} and targets of shape "
        f"{tuple(y.shape)} do not fit"
    )
    try:
        taken = taken.to(torch.promote_types(taken.dtype, torch.float32))
        found = likelihood.log_prob(taken, likelihood.check(taken, y))
    except Exception as error:  # distributions have errors of their own
        raise ValueError(f"{what}: {_first_line(error)}") from error
    if found.shape != taken.shape[:1]:
        raise ValueError(f"{what}: wanted are (examples, classes) and (examples,), or two of one shape for regression")
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"net {recipe.net!r} gives NaN or infinity on the first batch of data {recipe.data!r}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
