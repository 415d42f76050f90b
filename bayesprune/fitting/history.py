"""The training history: loss, KL, sparsity and time per epoch."""

import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Epoch", "History"]


@dataclass(frozen=True)
class Epoch:
    """The figures of one epoch of a fit.

    Attributes:
        epoch: counted from 1.
        nll: negative log-likelihood per training example, nats, averaged over the epoch.
        kl: KL of the posterior from the prior, nats, averaged over the epoch, without the warm-up's factor.
        kl_weight: the factor on the KL at the end of the epoch.
        kept: the fraction of the matched weights' entries that is not pruned, at the end of the epoch.
        seconds: wall-clock time.
    """

    epoch: int
    nll: float
    kl: float
    kl_weight: float
    kept: float
    seconds: float

    @property
    def temperature(self) -> float:
        """The old name of ``kl_weight``."""
        warnings.warn("Epoch.temperature is called kl_weight now", DeprecationWarning, stacklevel=2)
        return self.kl_weight


@dataclass
class History:
    """The epochs of a fit, and whether it was interrupted.

    >>> history = History()
    >>> history.epochs.append(Epoch(1, 0.5, 100.0, 1.0, 1.0, 2.0))
    >>> history.nll
    [0.5]
    """

    epochs: list[Epoch] = field(default_factory=list)
    interrupted: bool = False

    @property
    def nll(self) -> list[float]:
        """Negative log-likelihood per example, an entry an epoch."""
        return [e.nll for e in self.epochs]

    @property
    def kl(self) -> list[float]:
        """KL in nats, an entry an epoch."""
        return [e.kl for e in self.epochs]

    @property
    def kept(self) -> list[float]:
        """Kept fraction, an entry an epoch."""
        return [e.kept for e in self.epochs]

    @property
    def seconds(self) -> float:
        """Wall-clock time of all epochs together."""
        return sum(e.seconds for e in self.epochs)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return self.to_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.epochs = [Epoch(**e) for e in state["epochs"]]
        self.interrupted = False
