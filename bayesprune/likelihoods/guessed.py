"""The likelihood that a net's output and targets suggest: classes, several labels, or numbers."""

from typing import Any

from torch import Tensor

from bayesprune.likelihoods.base import Likelihood, one_tensor
from bayesprune.likelihoods.bernoulli import Bernoulli
from bayesprune.likelihoods.categorical import Categorical
from bayesprune.likelihoods.normal import Normal

__all__ = ["guessed"]

_SAY = "say what they are, likelihood=bp.likelihoods.…"


def guessed(output: Any, y: Any) -> tuple[Likelihood, str]:
    """A likelihood, and what it takes the targets for, in words.

    Args:
        output: of a net on a batch.
        y: the batch's targets.

    Raises:
        TypeError: the net's output is not one tensor.
        ValueError: no targets, several, or such as could be more than one thing.

    >>> import torch
    >>> guessed(torch.zeros(8, 3), torch.arange(8) % 3)[1], guessed(torch.zeros(8, 1), torch.randn(8))[1]
    ('class labels, 3 classes', 'real numbers')
    """
    found = one_tensor(output)
    if not isinstance(y, Tensor):
        raise ValueError(f"targets are a tensor where the task is to be guessed, got {type(y).__name__}: {_SAY}")
    shape, whole = tuple(found.shape), not y.is_floating_point()
    if whole and tuple(y.shape) == shape[:-1] and shape[-1] > 1:
        return Categorical(), f"class labels, {shape[-1]} classes"
    if whole and len(shape) > 2 and tuple(y.shape) == (shape[0], *shape[2:]):
        return Categorical(class_axis=1), f"class labels of each position, {shape[1]} classes"
    if shape not in (tuple(y.shape), (*y.shape, 1)):
        raise ValueError(
            f"targets of shape {tuple(y.shape)} and type {y.dtype} suggest no task for outputs of shape {shape}: {_SAY}"
        )
    if bool(((y == 0) | (y == 1)).all()):
        if shape[-1] > 1 and len(shape) > 1 and bool((y.sum(-1) == 1).all()):
            raise ValueError(
                "targets with a single 1 a row may be classes or independent labels: say likelihood="
                "bp.likelihoods.Categorical() or bp.likelihoods.Bernoulli()"
            )
        labels = f"{shape[-1]} labels, each there or not" if len(shape) > 1 and shape[-1] > 1 else "a label, 0 or 1"
        return Bernoulli(), labels
    if whole:
        raise ValueError(
            f"whole numbers up to {int(y.max())} for outputs of shape {shape} may be counts or numbers: say likelihood="
            "bp.likelihoods.Poisson(), or make them float"
        )
    if shape[-1] > 1 and bool((y >= 0).all()) and bool(((y.sum(-1) - 1).abs() < 1e-4).all()):
        return Categorical(), f"probabilities of {shape[-1]} classes"
    return Normal(), "real numbers" if len(shape) < 2 or shape[-1] == 1 else f"real numbers, {shape[-1]} an example"
