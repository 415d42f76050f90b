"""A likelihood of the user's own, as a function."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from bayesprune.likelihoods.base import NO_TARGETS, Likelihood, mixture
from bayesprune.likelihoods.batch import count_examples
from bayesprune.likelihoods.losses import Losses

__all__ = ["Own", "likelihood"]


class Own(Likelihood):
    """What :func:`bayesprune.likelihood` gives."""

    draws_targets = False

    def __init__(
        self, nll: Callable[[Any, Any], Tensor], mean: Callable[[Any], Tensor] | None, targets: str | tuple[str, ...]
    ) -> None:
        super().__init__()
        self.nll, self._mean, self.targets = nll, mean, targets

    def extra_repr(self) -> str:
        return getattr(self.nll, "__qualname__", type(self.nll).__qualname__)

    def take(self, output: Any) -> Any:
        return output

    def check(self, output: Any, y: Any) -> Any:
        return y

    def score(self, output: Any, y: Any) -> Tensor:
        """log p(y) by the function, (examples,).

        Raises:
            ValueError: it gives anything else than a number for each example.
        """
        found, n = self.nll(output, y), count_examples(output, y)
        if not isinstance(found, Tensor) or found.shape != (n,):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"a likelihood gives −log p of each example, here of shape ({n},), got {got}: take reduction='none' "
                "and sum over all axes but the first"
            )
        return -found

    def log_prob(self, output: Mapping[str, Tensor], y: Any) -> Tensor:
        return output["log_p"]

    def predicts(self, output: Mapping[str, Tensor]) -> bool:
        return "mean" in output

    def scored(self, output: Mapping[str, Tensor], y: Any) -> bool:
        return "log_p" in output

    def observe(self, site: str, output: Any, y: Any) -> None:
        if y is not None:
            pyro.factor(site, self.score(output, y))

    def kept(self, output: Any, y: Any) -> tuple[Any, Any]:
        found = {} if y is None else {"log_p": self.score(output, y)}
        mean = self._mean(output) if self._mean is not None else output if isinstance(output, Tensor) else None
        if mean is not None:
            if not isinstance(mean, Tensor) or not mean.dim():
                raise ValueError(f"mean= gives a tensor, examples first, got {type(mean).__name__}")
            found["mean"] = mean
        elif not found:
            self._refuse()
        return found, y if isinstance(y, Tensor) else None

    def distribution(self, output: Any) -> TorchDistributionMixin:
        raise ValueError("a likelihood that is a function of yours gives no draws of targets")

    def mean(self, output: Mapping[str, Tensor]) -> Tensor:
        return output["mean"] if "mean" in output else self._refuse()

    def uncertainty(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The variance of the prediction over draws, and NaN: what the function says of the noise is not known."""
        means = self.mean(outputs)
        epistemic = means.var(0, correction=1 if len(means) > 1 else 0)
        return epistemic, torch.full_like(epistemic, torch.nan)

    def losses(self, outputs: Mapping[str, Tensor], y: Any) -> Losses:
        if "log_p" not in outputs:
            raise ValueError(NO_TARGETS)
        return Losses(-mixture(outputs["log_p"]))

    def _refuse(self) -> NoReturn:
        raise ValueError(
            "what to predict is not known: say bp.likelihood(nll, mean=…), from a net's output to a tensor"
        )


def likelihood(
    nll: Callable[[Any, Any], Tensor],
    *,
    mean: Callable[[Any], Tensor] | None = None,
    targets: str | tuple[str, ...] = "labels",
) -> Own:
    """A likelihood of one's own, for :func:`bayesprune.supervise`: a function, or a module with parameters to learn.

    Reports and sweeps then have the negative log-likelihood, and no error; ArviZ has the log-likelihood, and no
    predictive draws of y; of a prediction's uncertainty the part over draws of the weights is known, and ``aleatoric``
    is NaN.

    Args:
        nll: from a net's output on a batch, whatever it is, and the targets, whatever they are, to −log p(y) of each
            example, nats, (examples,).
        mean: from a net's output to what is to be predicted, examples first; by default the output, if it is a tensor.
        targets: where batches are mappings, the name of the targets in them, or several.

    >>> import torch.nn.functional as F
    >>> robust = likelihood(lambda output, y: F.smooth_l1_loss(output, y, reduction="none").sum(-1))
    >>> robust.score(torch.zeros(2, 1), torch.ones(2, 1))
    tensor([-0.5000, -0.5000])
    """
    if not callable(nll):
        raise TypeError(f"nll is a function of a net's output and the targets, got {type(nll).__name__}")
    return Own(nll, mean, targets)
