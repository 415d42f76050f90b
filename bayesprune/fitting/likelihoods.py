"""Complete Pyro models: a Bayesian net with a categorical or Gaussian likelihood."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from bayesprune.fitting.observations import CategoricalObservation, NormalObservation, Observation
from bayesprune.network.bayesian_net import BayesianNet

__all__ = ["SupervisedModel", "call", "classify", "parted", "regress"]


def call(net: Callable[..., Any], x: Any) -> Any:
    """``net(x)``, where a tuple or list is several inputs and a mapping is keyword inputs."""
    if isinstance(x, Mapping):
        return net(**x)
    if isinstance(x, (tuple, list)):
        return net(*x)
    return net(x)


def parted(batch: Any) -> tuple[Any, Any]:
    """A batch's inputs, one or a tuple of several, and its targets: ``None`` where it is of inputs alone.

    >>> parted((1, 2, 3)), parted(1)
    (((1, 2), 3), (1, None))
    """
    *x, y = batch if isinstance(batch, (tuple, list)) and len(batch) > 1 else (batch, None)
    return x[0] if len(x) == 1 else tuple(x), y


class SupervisedModel(nn.Module):
    """A Pyro model of targets given inputs: weights from the prior, y from the observation, per data set.

    Args:
        bnet: the net with its posterior.
        size: how many examples the data set has; each batch stands for all of them.

    The sites are the net's, and ``y`` in the plate ``data``: with a line under them, ``y_`` and ``data_``, where the
    net has a parameter of that name.

    Attributes:
        target, plate: what the site of y and its plate are called.
    """

    def __init__(self, bnet: BayesianNet, observation: Observation, size: int) -> None:
        super().__init__()
        if not isinstance(bnet, BayesianNet):
            raise TypeError(f"expected a BayesianNet, got {type(bnet).__name__}")
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size is the number of examples in the training set, an integer ≥ 1, got {size!r}")
        bnet.observation = observation
        self.bnet, self.size = bnet, size
        taken = {name for name, _ in bnet.net.named_parameters()}
        self.target, self.plate = (_free(name, taken) for name in ("y", "data"))

    def forward(self, x: Any, y: Tensor | None = None) -> Tensor:
        """Run the model on a batch; returns the net's output, in float32 at least: its log-probability is taken there.

        Raises:
            ValueError: an empty batch, a batch larger than ``size``, or targets that the output cannot have.
        """
        output = call(self.bnet, x)
        if not isinstance(output, Tensor):
            raise TypeError(f"the net must return one tensor here, got {type(output).__name__}: write your own model")
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        observation = self.bnet.observation
        assert isinstance(observation, Observation)
        n = len(output)
        if n == 0:
            raise ValueError("an empty batch: nothing to learn from or to predict")
        if y is not None:
            y = observation.check(output, y)
            if n > self.size:
                raise ValueError(f"a batch of {n} is larger than size={self.size}, the number of training examples")
        # given the indices, Pyro draws none: a randperm over the data set at every step is saved
        with pyro.plate(self.plate, self.size if y is not None else n, subsample=torch.arange(n, device=output.device)):
            pyro.sample(self.target, observation(output), obs=y)
        return output


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def classify(bnet: BayesianNet, size: int) -> SupervisedModel:
    """A model of class labels; the net's output holds logits, the class axis last.

    Args:
        bnet: the net with its posterior.
        size: how many examples the training set has.

    >>> from bayesprune.methods import SparseVD
    >>> bnet = BayesianNet(nn.Sequential(nn.Linear(4, 3)), {"0.weight": SparseVD()})
    >>> classify(bnet, size=100)(torch.zeros(2, 4), torch.tensor([0, 2])).shape
    torch.Size([2, 3])
    """
    return SupervisedModel(bnet, CategoricalObservation(), size)


def regress(bnet: BayesianNet, size: int, noise: float | None = None) -> SupervisedModel:
    """A model of real targets, normal around the net's output.

    Args:
        bnet: the net with its posterior.
        size: how many examples the training set has.
        noise: the standard deviation of a target, in its units; ``None`` learns it.
    """
    return SupervisedModel(bnet, NormalObservation(noise), size)
