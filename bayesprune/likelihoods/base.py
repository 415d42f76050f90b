"""What every likelihood answers: which targets it takes, their log-probability, a prediction, and what that loses."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import pyro
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from bayesprune.likelihoods.losses import Losses

__all__ = ["NO_TARGETS", "Likelihood", "mixture", "one_for_each", "one_tensor"]

NO_TARGETS = "the loader yields no targets: nothing to score against"


class Likelihood(nn.Module, ABC):
    """How targets are distributed given a net's output: a value to fit, predict and score by.

    A family says which part of a net's output it reads (:meth:`take`), which targets can be (:meth:`check`), and how
    they are distributed (:meth:`distribution`). Everything is counted in *examples*, the first axis: an example's
    log-probability is the sum over its pixels, tokens or numbers.

    Attributes:
        targets: where batches are mappings, the name of the targets in them, or several.
        prefix: what the names of its Pyro param sites begin with.
        draws_targets: whether :meth:`distribution` can be drawn from.
    """

    targets: str | tuple[str, ...] = "labels"
    prefix: str = ""
    draws_targets: bool = True

    @abstractmethod
    def take(self, output: Any) -> Any:
        """What is read of a net's output: a tensor, or several by name, examples first and classes last.

        Raises:
            TypeError, ValueError: it is not there.
        """

    @abstractmethod
    def check(self, output: Any, y: Any) -> Any:
        """``y`` as the distribution takes it; raises ``ValueError`` where it cannot be a target of ``output``."""

    @abstractmethod
    def distribution(self, output: Any) -> TorchDistributionMixin:
        """The distribution of y, one per example."""

    @abstractmethod
    def log_prob(self, output: Any, y: Any) -> Tensor:
        """log p(y) of checked targets, nats, (examples,), from what :meth:`kept` gave."""

    @abstractmethod
    def mean(self, output: Any) -> Tensor:
        """The prediction: class probabilities, or the mean of y."""

    @abstractmethod
    def uncertainty(self, outputs: Any) -> tuple[Tensor, Tensor]:
        """From the outputs of several draws of the weights, (draws, examples, …), what more data would settle
        (epistemic) and what is left if the weights were known (aleatoric)."""

    @abstractmethod
    def losses(self, outputs: Any, y: Any) -> Losses:
        """What the mixture of the outputs, (draws, examples, …), loses on each observation."""

    def observe(self, site: str, output: Any, y: Any) -> None:
        """The Pyro site of y, inside the plate of examples; ``y`` is ``None`` or checked."""
        pyro.sample(site, self.distribution(output), obs=y)

    def kept(self, output: Any, y: Any) -> tuple[Any, Any]:
        """Of a net's output on a batch and its targets, what later passes need: tensors, examples first."""
        return self.take(output), y

    def scored(self, output: Any, y: Any) -> bool:
        """Whether what :meth:`kept` gave came with targets."""
        return y is not None

    def predicts(self, output: Any) -> bool:
        """Whether :meth:`mean` of what :meth:`kept` gave is known."""
        return True

    def check_inputs(self, x: Any, y: Any) -> None:
        """Raise ``ValueError`` where targets repeat the inputs in a way that cannot be meant."""

    def no_density(self, y: Any) -> str | None:
        """Why what was fitted is no density of checked targets; ``None`` where it is."""
        return None


def one_tensor(output: Any) -> Tensor:
    """A net's output that is one tensor, examples first, or has one called ``logits``.

    Raises:
        TypeError: it is neither.
        ValueError: it is one number for a whole batch.
    """
    found = output
    if not isinstance(output, Tensor):
        found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        held = f" of {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
        raise TypeError(
            f"the net must return one tensor here, got {type(output).__name__}{held}: logits of a dict are found, "
            "several outputs are read by bp.likelihoods.Several, and any by bp.likelihood"
        )
    if not found.dim():
        raise ValueError(
            "the net returns one number for a whole batch: it must return one row an example (squeeze() loses that "
            "of a batch of one; squeeze(-1) does not)"
        )
    return found


def one_for_each(y: Any, shape: tuple[int, ...], what: str, of: str) -> Tensor:
    """Targets of ``shape``, from which an axis of one number at the end may have been left out.

    Raises:
        ValueError: there are none, or they (``what``) have another shape than what they go with, one for each ``of``.

    >>> import torch
    >>> one_for_each(torch.zeros(4), (4, 1), "labels", "logit").shape
    torch.Size([4, 1])
    """
    if y is None:
        raise ValueError(NO_TARGETS)
    if not isinstance(y, Tensor):
        raise ValueError(f"{what} must be a tensor, got {type(y).__name__}")
    found = y.unsqueeze(-1) if tuple(y.shape) != shape and (*y.shape, 1) == shape else y
    if tuple(found.shape) != shape:
        raise ValueError(
            f"{what} of shape {tuple(y.shape)} do not go with {of}s of shape {shape}: expected one for each {of}"
        )
    return found


def mixture(log_p: Tensor) -> Tensor:
    """The log of the mean over draws, the first axis, of what is given by its logarithm."""
    return log_p.logsumexp(0) - math.log(len(log_p))
