"""Gradual pruning along a cubic schedule, ranked by a saliency.

Zhu & Gupta 2017, *To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model Compression*,
arXiv:1710.01878.
"""

from dataclasses import dataclass

from bayesprune.pruning.callback import Callback, Run
from bayesprune.pruning.masking import Scope, check_keep, select
from bayesprune.pruning.saliency import Saliency, snr

__all__ = ["Cubic"]


@dataclass(frozen=True)
class Cubic(Callback):
    """Prune while fitting: the kept fraction falls from 1 to ``keep`` along a cubic (Zhu & Gupta 2017).

    Args:
        keep: the fraction of the matched weights' entries kept at the end, in (0, 1].
        start, end: the part of the run over which to prune, as fractions of it.
        every: how many steps lie between two prunings.
        scope: one budget for all weights together ("global") or one for each ("layer").
        saliency: what ranks groups.

    Raises:
        ValueError: an argument out of range.

    >>> Cubic(keep=0.1).fraction(0.0), round(Cubic(keep=0.1).fraction(1.0), 3)
    (1.0, 0.1)
    """

    keep: float
    start: float = 0.0
    end: float = 0.75
    every: int = 40
    scope: Scope = "global"
    saliency: Saliency = snr

    def __post_init__(self) -> None:
        check_keep(self.keep, self.scope)
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"Cubic needs 0 ≤ start < end ≤ 1, got start={self.start}, end={self.end}")
        if self.every < 1:
            raise ValueError(f"every is a number of steps ≥ 1, got {self.every}")

    def fraction(self, progress: float) -> float:
        """The fraction to keep when ``progress`` of the run is done."""
        done = min(max((progress - self.start) / (self.end - self.start), 0.0), 1.0)
        return self.keep + (1 - self.keep) * (1 - done) ** 3

    def on_step(self, run: Run) -> None:
        before, now = ((run.step - back) / max(run.steps, 1) for back in (self.every, 0))
        due = run.step % self.every == 0 and self.start <= now and before < self.end
        if due or run.step == run.steps:  # the last step settles a run too short for the grid
            self._prune(run)

    def on_end(self, run: Run) -> None:
        if run.stopped:  # between two prunings
            self._prune(run)

    def _prune(self, run: Run) -> None:
        run.prune(select(run.bnet, self.saliency(run.bnet), self.fraction(run.progress), self.scope))
