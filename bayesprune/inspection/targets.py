"""What is drawn, said and seen of the targets, as arrays with named axes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprune.evaluation.scoring import double
from bayesprune.inspection.entries import label_of, numpy_of
from bayesprune.likelihoods import Bernoulli, Categorical, Likelihood, Several

__all__ = ["Targets", "targets_of"]


class Targets:
    """The arrays of one likelihood's targets, to be filled draw by draw.

    Args:
        name: of one output among several.
        likelihood: how its targets are distributed.
        draws: how many draws there will be.
        output, y: of the first draw, as the likelihood keeps them.
        classes: the classes' names.

    Attributes:
        coords: of all axes.
        y: drawn anew, (chain, draw, *y_dims); ``None`` where the likelihood draws none.
        means: what the net says, (chain, draw, *mean_dims); ``None`` where it is not known or has no room.
        observed: what the loader has, with its axes; ``None`` where it has none.
    """

    def __init__(
        self, name: str, likelihood: Likelihood, draws: int, output: Any, y: Any, classes: Sequence[str] | None
    ) -> None:
        self.name, self.likelihood, self.draws = name, likelihood, draws
        self.suffix = f".{label_of(name)}" if name else ""
        self.exclusive = isinstance(likelihood, Categorical)
        self._shape: tuple[int, ...] = ()
        self._type: np.dtype | None = None
        self.means: np.ndarray | None = None
        self.y: np.ndarray | None = None
        self.observed: tuple[tuple[str, ...], np.ndarray] | None = None
        self.coords: dict[str, Any] = {}
        if not likelihood.predicts(output):
            return
        first = self._mean(output)
        self.coords, self.y_dims, self.mean_dims = self._axes(first.shape, classes)
        y_shape = first.shape[: len(self.y_dims)]
        self._shape, self._type = (1, draws, *first.shape), first.dtype
        if likelihood.draws_targets:
            kind = np.int64 if isinstance(likelihood, Categorical | Bernoulli) else first.dtype
            self.y = np.empty((1, draws, *y_shape), kind)
            if y is not None:
                seen = numpy_of(likelihood.check(output, y))
                shares = self.exclusive and seen.dtype.kind == "f"
                dims, shape = (self.mean_dims, first.shape) if shares else (self.y_dims, y_shape)
                self.observed = dims, seen.reshape(shape)

    @property
    def nbytes(self) -> int:
        """What must be held: all but the means."""
        return sum(array.nbytes for array in (self.y, self.observed and self.observed[1]) if array is not None)

    @property
    def means_nbytes(self) -> int:
        """What the means take; 0 where they are not known."""
        return math.prod(self._shape) * self._type.itemsize if self._type is not None else 0

    def hold_means(self) -> None:
        """Hold the means too, of the draws to come."""
        self.means = np.empty(self._shape, self._type)

    @property
    def what(self) -> str:
        """What the means are called."""
        return f"{'probs' if isinstance(self.likelihood, Categorical | Bernoulli) else 'mean'}{self.suffix}"

    def add(self, i: int, output: Any, stream: Tensor) -> Tensor:
        """The output of draw ``i``, and a ``y`` from it by the generator state ``stream``; returns the state after."""
        if self.means is not None:
            self.means[0, i] = self._mean(output)
        if self.y is None:
            return stream
        with torch.random.fork_rng(devices=[]):  # a stream of its own: the weights are those of bp.predict
            torch.set_rng_state(stream)
            drawn = self.likelihood.distribution(double(output).cpu()).sample()
            self.y[0, i] = drawn.reshape(self.y.shape[2:]).numpy()
            return torch.get_rng_state()

    def _mean(self, output: Any) -> np.ndarray:
        """Class probabilities, or the mean of y; one number per example has no axis of its own."""
        mean = self.likelihood.mean(output)
        alone = not self.exclusive and mean.dim() == 2 and mean.shape[1] == 1
        return numpy_of(mean.squeeze(-1) if alone else mean)

    def _axes(
        self, shape: tuple[int, ...], classes: Sequence[str] | None
    ) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
        """Coordinates, and the names of the axes of y and of what the net puts out for it."""
        inner, labels = len(shape) - 1 - self.exclusive, isinstance(self.likelihood, Bernoulli)
        alone = "label" if labels else "target"
        y_dims = ("example", *(f"y{self.suffix}_dim_{i}" for i in range(inner)))
        if inner == 1 and not self.exclusive:
            y_dims = ("example", f"{alone}{self.suffix}")
        dims = (*y_dims, f"class{self.suffix}") if self.exclusive else y_dims
        coords: dict[str, Any] = {dim: np.arange(size) for dim, size in zip(dims, shape, strict=True)}
        if classes is not None:
            named = self.exclusive or (labels and inner == 1)
            if not named:
                what = "there is one label an example" if labels else "the targets are real (bp.regress)"
                raise ValueError(f"classes names classes, but {what}")
            if len(classes) != shape[-1] or len(set(classes)) != len(classes):
                raise ValueError(f"classes names each of the net's {shape[-1]} classes once, got {list(classes)}")
            coords[dims[-1]] = np.array(list(classes))
        return coords, y_dims, dims


def targets_of(likelihood: Likelihood, draws: int, output: Any, y: Any, classes: Sequence[str] | None) -> list[Targets]:
    """One, or of several outputs one for each.

    Raises:
        ValueError: class names for targets that have no classes, or another number of them.
    """
    if not isinstance(likelihood, Several):
        return [Targets("", likelihood, draws, output, y, classes)]
    if classes is not None:
        raise ValueError("classes names the classes of one output, and there are several: leave it out")
    seen = dict.fromkeys(likelihood.names) if y is None else y
    return [Targets(n, part, draws, output[n], seen[n], None) for n, part in likelihood.parts.items()]
