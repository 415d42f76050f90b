"""The posterior predictive: averages over weight draws, and where the uncertainty comes from."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate.utils import send_to_device
from pyro.poutine import Trace
from torch import Tensor

from bayesprune.evaluation.classification import entropy_split
from bayesprune.evaluation.passes import SteadyLoader, check_like, steady
from bayesprune.fitting.likelihoods import call, parted
from bayesprune.fitting.observations import CategoricalObservation, NormalObservation
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.pruning.masking import check_masks

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True)
class Prediction:
    """The posterior predictive of a data set.

    Attributes:
        mean: class probabilities averaged over draws, or the mean of y: (examples, classes or outputs).
        draws: the same for each draw of the weights: (draws, examples, classes or outputs).
        epistemic: what more data would settle. Classes: the mutual information of label and weights, nats, (examples,).
            Real targets: the variance of the mean over draws, (examples, outputs).
        aleatoric: what is left if the weights were known. Classes: the mean entropy over draws, nats. Real targets:
            the noise's variance.
        targets: the labels or targets that came with the inputs, or ``None``.
    """

    mean: Tensor
    draws: Tensor
    epistemic: Tensor
    aleatoric: Tensor
    targets: Tensor | None


def known_observation(bnet: BayesianNet) -> CategoricalObservation | NormalObservation:
    """What the net's output means; raises ``ValueError`` where no model has said so yet."""
    if not isinstance(bnet.observation, (CategoricalObservation, NormalObservation)):
        raise ValueError("what the net's output means is not known: make a model with bp.classify or bp.regress first")
    return bnet.observation


@torch.no_grad()
def predict(
    bnet: BayesianNet,
    loader: Iterable[Any],
    *,
    draws: int = 20,
    masks: Mapping[str, Tensor] | None = None,
    seed: int | None = None,
) -> Prediction:
    """The posterior predictive; one draw is one set of weights for the whole data set.

    Args:
        bnet: the net with its posterior; :func:`bayesprune.classify` or :func:`~bayesprune.regress` has said what its
            output means.
        loader: batches ``(x, y)``, or of ``x`` alone; read once a draw, so its order must not change (no shuffling).
        draws: how many draws of the weights.
        masks: weight name → bool; what they drop is 0 in every draw.
        seed: fixes the draws, and leaves the global generator as it was.

    Raises:
        ValueError: no observation model yet, masks that do not fit, no data, a loader whose order changes, or batches
            padded to different lengths, each with an output a position.

    >>> from bayesprune.fitting.likelihoods import classify
    >>> from bayesprune.methods import SparseVD
    >>> bnet = BayesianNet(torch.nn.Sequential(torch.nn.Linear(4, 3)), {"0.weight": SparseVD()})
    >>> model = classify(bnet, size=10)
    >>> predict(bnet, [torch.zeros(5, 4)], draws=2).draws.shape
    torch.Size([2, 5, 3])
    """
    if draws < 1:
        raise ValueError(f"draws is an integer ≥ 1, got {draws}")
    observation = known_observation(bnet)
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        stacked, targets = draw_outputs(bnet, loader, draws, masks or {})
    if isinstance(observation, CategoricalObservation):
        probs = stacked.softmax(-1)
        split = entropy_split(probs)
        return Prediction(probs.mean(0), probs, split.epistemic, split.aleatoric, targets)
    spread = stacked.var(0, correction=1 if draws > 1 else 0)
    return Prediction(stacked.mean(0), stacked, spread, torch.full_like(spread, observation.noise**2), targets)


@torch.no_grad()
def draw_outputs(
    bnet: BayesianNet, loader: Iterable[Any], draws: int, masks: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """The net's outputs on each of several posterior draws, (draws, examples, …), and the targets.

    Raises:
        ValueError: masks that do not fit, no data, a loader whose order changes from pass to pass, or batches of
            different lengths, each with an output a position.
    """
    outputs, targets = [], None
    for drawn in each_draw(bnet, loader, draws, masks):
        outputs.append(drawn.output)
        targets = drawn.targets
    return torch.stack(outputs), targets


@dataclass(frozen=True)
class Draw:
    """One posterior draw: a single set of weights for a whole data set.

    Attributes:
        weights: every parameter and buffer by its name, masked.
        output: the net's output, (examples, …).
        targets: what came with the inputs, or ``None``.
        under_q, under_p: the draw's sites under the guide and under the prior, before masks.
    """

    weights: dict[str, Tensor]
    output: Tensor
    targets: Tensor | None
    under_q: Trace
    under_p: Trace


@torch.no_grad()
def each_draw(bnet: BayesianNet, loader: Iterable[Any], draws: int, masks: Mapping[str, Tensor]) -> Iterator[Draw]:
    """One posterior draw after the other, each run over the whole data set in eval mode.

    Raises:
        ValueError: masks that do not fit, no data, a loader whose order changes from pass to pass, or batches of
            different lengths, each with an output a position.
    """
    check_masks(bnet, masks)
    loader = steady(loader)
    if draws == 1 and isinstance(loader, SteadyLoader):
        loader.check_inputs_alone()
    for _ in range(draws):
        drawn = _draw(bnet, loader, masks)
        yield drawn
        del drawn  # before the next one is made


def _draw(bnet: BayesianNet, loader: Iterable[Any], masks: Mapping[str, Tensor]) -> Draw:
    with evaluating(bnet):
        weights, under_q, under_p = bnet.traced_draw()
        for name, mask in masks.items():
            weights[name] = weights[name] * mask
        output, targets = run_over(partial(bnet.run, weights), loader, next(iter(weights.values())).device)
    return Draw(weights, output, targets, under_q, under_p)


def run_over(forward: Callable[..., Any], loader: Iterable[Any], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """``forward``'s outputs over a whole data set, and the targets where batches have them, both on ``device``.

    Raises:
        TypeError: the net returns something else than a tensor.
        ValueError: no batches, or batches whose outputs or targets cannot stand in one tensor.
    """
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    for batch in loader:
        x, y = parted(batch)
        outputs.append(_one_tensor(call(forward, send_to_device(x, device))))
        check_like(outputs[0], outputs[-1], "outputs")
        if y is not None:
            targets.append(y.to(device))
            check_like(targets[0], targets[-1], "targets")
    if not outputs:
        raise ValueError("the loader holds no batches")
    return torch.cat(outputs), torch.cat(targets) if targets else None


def _one_tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the net must return one tensor here, got {type(output).__name__}: give BayesianNet a module around it "
            "that returns the one to predict"
        )
    return output


@contextmanager
def evaluating(bnet: BayesianNet) -> Iterator[None]:
    """A context in which a module is in eval mode."""
    mode = bnet.training
    bnet.eval()
    try:
        yield
    finally:
        bnet.train(mode)
