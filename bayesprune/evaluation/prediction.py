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
from torch.utils._pytree import tree_map

from bayesprune.evaluation.passes import SteadyLoader, check_like, steady
from bayesprune.fitting.batches import split
from bayesprune.fitting.generators import seeded
from bayesprune.fitting.given import batches_of, net_of
from bayesprune.fitting.supervised import SupervisedModel
from bayesprune.likelihoods import Likelihood, Several
from bayesprune.likelihoods.batch import call
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.pruning.masking import check_masks

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True, repr=False)
class Prediction:
    """The posterior predictive of a data set.

    Attributes:
        mean: class probabilities averaged over draws, the chance of each label, or the mean of y: (examples, …), the
            classes last.
        draws: the same for each draw of the weights: (draws, examples, …).
        epistemic: what more data would settle. Labels: the mutual information of label and weights, nats, (examples,
            …). Numbers: the variance of the mean over draws, of y's shape.
        aleatoric: what is left if the weights were known. Labels: the mean entropy over draws, nats. Numbers: the mean
            variance of y around its mean. NaN where a likelihood of one's own does not say.
        targets: what came with the inputs, or ``None``.
    """

    mean: Tensor
    draws: Tensor
    epistemic: Tensor
    aleatoric: Tensor
    targets: Tensor | None

    def __repr__(self) -> str:
        shapes = {name: None if value is None else tuple(value.shape) for name, value in vars(self).items()}
        draws, *rest = shapes["draws"] or ()
        targets = "with targets" if shapes["targets"] is not None else "no targets"
        return f"Prediction({rest[0]} examples, {draws} draws: mean {shapes['mean']}, {targets})"

    def __getitem__(self, part: str) -> "Prediction":
        """Of several outputs, the prediction of one."""
        raise TypeError("this prediction is of one output: take mean, draws, epistemic and aleatoric")


class Predictions(Prediction):
    """The posterior predictive of several outputs: ``prediction["kind"].mean``.

    Attributes:
        parts: output name → its prediction.
    """

    parts: dict[str, Prediction]

    def __init__(self, parts: Mapping[str, Prediction]) -> None:
        object.__setattr__(self, "parts", dict(parts))

    def __getitem__(self, part: str) -> Prediction:
        return self.parts[part]

    def __getattr__(self, name: str) -> Any:
        parts = list(self.__dict__.get("parts", ()))
        raise AttributeError(f"this prediction is of several outputs: take {name} of one of them, {parts}")

    def __repr__(self) -> str:
        return f"Predictions({self.parts})"


def known_observation(bnet: BayesianNet) -> Likelihood:
    """What the net's output means; raises ``ValueError`` where no model has said so yet."""
    if bnet.observation is None:
        raise ValueError(
            "what the net's output means is not known: make a model with bp.classify or bp.regress first, or with "
            "bp.supervise for other targets"
        )
    return bnet.observation


@torch.no_grad()
def predict(
    bnet: BayesianNet | SupervisedModel,
    loader: Any,
    *,
    draws: int = 20,
    masks: Mapping[str, Tensor] | None = None,
    seed: int | None = None,
) -> Prediction:
    """The posterior predictive; one draw is one set of weights for the whole data set.

    Args:
        bnet: the net with its posterior; :func:`bayesprune.classify` or :func:`~bayesprune.regress` has said what its
            output means. Or the model that these gave.
        loader: batches ``(x, y)``, or of ``x`` alone; read once a draw, so its order must not change (no shuffling).
            Or a ``Dataset``, or one batch: a tensor or mapping of inputs, or ``(x, y)``.
        draws: how many draws of the weights.
        masks: weight name → bool; what they drop is 0 in every draw.
        seed: fixes the draws, and leaves the global generator as it was.

    Raises:
        TypeError: no net with a posterior, or no data.
        ValueError: no observation model yet, masks that do not fit, no data, a loader whose order changes, or batches
            padded to different lengths, each with an output a position.

    >>> from bayesprune.fitting.supervised import classify
    >>> from bayesprune.methods import SparseVD
    >>> bnet = BayesianNet(torch.nn.Sequential(torch.nn.Linear(4, 3)), {"0.weight": SparseVD()})
    >>> model = classify(bnet, size=10)
    >>> predict(bnet, torch.zeros(5, 4), draws=2).draws.shape
    torch.Size([2, 5, 3])
    """
    if draws < 1:
        raise ValueError(f"draws is an integer ≥ 1, got {draws}")
    bnet, loader = net_of(bnet), batches_of(loader)
    observation = known_observation(bnet)
    with seeded(seed):
        stacked, targets = draw_outputs(bnet, loader, draws, masks or {})
        return _prediction(observation, stacked, targets)


def _prediction(likelihood: Likelihood, outputs: Any, targets: Any) -> Prediction:
    if isinstance(likelihood, Several):
        of = dict.fromkeys(likelihood.names) if targets is None else targets
        return Predictions({n: _prediction(part, outputs[n], of[n]) for n, part in likelihood.parts.items()})
    draws = likelihood.mean(outputs)
    return Prediction(draws.mean(0), draws, *likelihood.uncertainty(outputs), targets)


@torch.no_grad()
def draw_outputs(bnet: BayesianNet, loader: Iterable[Any], draws: int, masks: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """What the likelihood reads of the net's outputs on each of several posterior draws, (draws, examples, …), and the
    targets.

    Raises:
        ValueError: masks that do not fit, no data, a loader whose order changes from pass to pass, or batches of
            different lengths, each with an output a position.
    """
    outputs, targets = [], None
    for drawn in each_draw(bnet, loader, draws, masks):
        outputs.append(drawn.output)
        targets = drawn.targets
    return tree_map(lambda *parts: torch.stack(parts), *outputs), targets


@dataclass(frozen=True)
class Draw:
    """One posterior draw: a single set of weights for a whole data set.

    Attributes:
        weights: every parameter and buffer by its name, masked.
        output: what the likelihood reads of the net's output, (examples, …).
        targets: what came with the inputs, or ``None``.
        under_q, under_p: the draw's sites under the guide and under the prior, before masks.
    """

    weights: dict[str, Tensor]
    output: Any
    targets: Any
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
        loader.check_inputs_alone(bnet)
    for _ in range(draws):
        drawn = _draw(bnet, loader, masks)
        yield drawn
        del drawn  # before the next one is made


def _draw(bnet: BayesianNet, loader: Iterable[Any], masks: Mapping[str, Tensor]) -> Draw:
    with evaluating(bnet):
        weights, under_q, under_p = bnet.traced_draw()
        for name, mask in masks.items():
            weights[name] = weights[name] * mask
        output, targets = run_over(bnet, partial(bnet.run, weights), loader)
    return Draw(weights, output, targets, under_q, under_p)


def run_over(bnet: BayesianNet, forward: Callable[..., Any], loader: Iterable[Any]) -> tuple[Any, Any]:
    """What the likelihood reads of ``forward``'s outputs over a whole data set, and the targets where batches have
    them, both on the net's device.

    Raises:
        TypeError: the net returns something else than a tensor.
        ValueError: no batches, or batches whose outputs or targets cannot stand in one tensor.
    """
    likelihood, device = known_observation(bnet), next(bnet.parameters()).device
    outputs, targets = [], []
    for batch in loader:
        x, y = split(bnet, batch)
        output, y = likelihood.kept(call(forward, send_to_device(x, device)), send_to_device(y, device))
        outputs.append(output)
        targets.append(y)
        check_like(outputs[0], output, "outputs")
        check_like(targets[0], y, "targets")
    if not outputs:
        raise ValueError("the loader holds no batches")
    return _joined(outputs), _joined(targets)


def _joined(parts: list[Any]) -> Any:
    """Trees of tensors over batches as one; what a batch has not is ``None`` for all."""
    if any(part is None for part in parts):
        return None
    return tree_map(lambda *of: None if any(part is None for part in of) else torch.cat(of), *parts)


@contextmanager
def evaluating(bnet: BayesianNet) -> Iterator[None]:
    """A context in which a module is in eval mode."""
    mode = bnet.training
    bnet.eval()
    try:
        yield
    finally:
        bnet.train(mode)
