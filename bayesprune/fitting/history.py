"""The training history: loss, KL, sparsity and time per epoch."""

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

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
        val_nll, val_error: of the posterior mean on validation data, at the end of the epoch: negative log-likelihood
            per observation, nats, and the fraction of wrong labels; ``None`` without such data, or labels.
    """

    epoch: int
    nll: float
    kl: float
    kl_weight: float
    kept: float
    seconds: float
    val_nll: float | None = None
    val_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON. What there is not is left out."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def temperature(self) -> float:
        """The old name of ``kl_weight``."""
        warnings.warn("Epoch.temperature is called kl_weight now", DeprecationWarning, stacklevel=2)
        return self.kl_weight


@dataclass(repr=False)
class History:
    """The epochs of a fit, whether it was interrupted (Ctrl-C) and whether a callback stopped it.

    >>> history = History()
    >>> history.epochs.append(Epoch(1, 0.5, 100.0, 1.0, 1.0, 2.0))
    >>> history.nll
    [0.5]
    """

    epochs: list[Epoch] = field(default_factory=list)
    interrupted: bool = False
    stopped: bool = False

    def __repr__(self) -> str:
        if not self.epochs:
            return "History(no epochs)"
        last = self.epochs[-1]
        ended = "".join(f", {how}" for how in ("interrupted", "stopped") if getattr(self, how))
        told = {"val NLL": last.val_nll, "val error": last.val_error}
        figures = "".join(f", {what} {value:.4g}" for what, value in told.items() if value is not None)
        return (
            f"History({len(self.epochs)} epochs in {self.seconds:.3g} s{ended}: NLL {last.nll:.4g}, KL {last.kl:,.0f}, "
            f"kept {last.kept:.1%}{figures})"
        )

    def to_frame(self) -> "pd.DataFrame":
        """A row an epoch, a column a figure.

        >>> History([Epoch(1, 0.5, 100.0, 1.0, 1.0, 2.0)]).to_frame().columns.tolist()
        ['epoch', 'nll', 'kl', 'kl_weight', 'kept', 'seconds']
        """
        import pandas as pd  # which nothing else of a fit needs

        return pd.DataFrame([epoch.to_dict() for epoch in self.epochs])

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
        ended = {"stopped": True} if self.stopped else {}
        return {"epochs": [epoch.to_dict() for epoch in self.epochs], "interrupted": self.interrupted, **ended}

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return self.to_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.epochs = [Epoch(**e) for e in state["epochs"]]
        self.interrupted, self.stopped = False, bool(state.get("stopped"))
