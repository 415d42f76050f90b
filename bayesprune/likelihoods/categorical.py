"""Classes: one label of several, for an example or for each of its tokens or pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from bayesprune.likelihoods.base import NO_TARGETS, Likelihood, mixture, one_tensor
from bayesprune.likelihoods.losses import Losses

__all__ = ["Categorical"]


class Categorical(Likelihood):
    """Class labels; the net's output holds logits.

    Targets are integers, one an example, token or pixel, or the probabilities of the classes (mixup, distillation), of
    the logits' own shape. The first three arguments are those of ``torch.nn.CrossEntropyLoss``; the sum over an
    example's labels takes the place of its mean.

    Args:
        weight: a factor on the loss of each class, (classes,). It counts in the fit alone: figures are of plain labels.
        label_smoothing: how much of each label goes to all classes alike, in [0, 1); in the fit alone.
        ignore_index: the label that says there is none: it counts for nothing, in the fit and in figures.
        class_axis: where the classes are in the output: ``-1``, or ``1`` for (examples, classes, height, width).
        shift: whether the output at each position is about the label of the next one, as in a causal language model
            whose labels are its inputs.

    Predictions have their classes last.

    Raises:
        ValueError: an argument out of range.

    >>> y = torch.tensor([[2, -100, 0]])
    >>> Categorical().log_prob(torch.zeros(1, 3, 4), y)  # two labels, the chance of each is a quarter
    tensor([-2.7726])
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        weight: Tensor | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        class_axis: int = -1,
        shift: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is a share in [0, 1), got {label_smoothing!r}")
        if class_axis not in (-1, 1):
            raise ValueError(f"class_axis is -1 (classes last) or 1 (after the examples), got {class_axis!r}")
        if shift and class_axis != -1:
            raise ValueError("shift is for (examples, positions, classes): leave class_axis=-1")
        if weight is not None:
            weight = torch.as_tensor(weight, dtype=torch.float32)
            if weight.dim() != 1 or not bool((weight >= 0).all()) or not bool(torch.isfinite(weight).all()):
                raise ValueError(f"weight holds a number ≥ 0 for each class, got {weight}")
        self.register_buffer("weight", weight)
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index
        self.class_axis, self.shift = class_axis, shift

    def extra_repr(self) -> str:
        weight = None if self.weight is None else self.weight.tolist()
        return (
            f"weight={weight}, label_smoothing={self.label_smoothing}, ignore_index={self.ignore_index}, "
            f"class_axis={self.class_axis}, shift={self.shift}"
        )

    def take(self, output: Any) -> Tensor:
        logits = one_tensor(output)
        if logits.dim() < 2:
            raise ValueError(f"the net returns {tuple(logits.shape)} where logits are (examples, …, classes)")
        return logits[:, :-1] if self.shift else logits.movedim(self.class_axis, -1)

    def check(self, output: Tensor, y: Any) -> Tensor:
        if y is None:
            raise ValueError(NO_TARGETS)
        if not isinstance(y, Tensor):
            raise ValueError(f"labels must be a tensor, got {type(y).__name__}")
        shape, classes = output.shape[:-1], output.shape[-1]
        if self.weight is not None and len(self.weight) != classes:
            raise ValueError(f"weight has {len(self.weight)} numbers, and the net's output {classes} classes")
        if self.shift and y.dim() > 1:
            y = y[:, 1:]
        if y.is_floating_point() and y.dim() == output.dim():
            return _check_shares(output, y.movedim(self.class_axis, -1))
        if y.shape != shape:
            raise ValueError(
                f"labels of shape {tuple(y.shape)} do not go with logits of shape {tuple(output.shape)}: expected one "
                f"integer label per example, of shape {tuple(shape)}{self._axis_hint(output, y) or ''}"
            )
        if y.is_floating_point() or y.dtype == torch.bool:
            raise ValueError(f"labels must be integers, got {y.dtype}; for real targets use bp.regress")
        y = y.long()  # of whatever width they come in
        if not _within(y, classes):
            labelled = y[y != self.ignore_index]
            if not _within(labelled, classes):
                low, high = (int(end) for end in torch.aminmax(labelled))
                raise ValueError(
                    f"labels must lie in 0…{classes - 1} for {classes} logits, got {low}…{high}; one that counts for "
                    f"nothing is ignore_index={self.ignore_index}"
                )
        return y

    def _axis_hint(self, output: Tensor, y: Tensor) -> str | None:
        """What to say where the other axis would fit."""
        if self.class_axis == -1 and output.dim() > 2 and y.shape == (len(output), *output.shape[2:]):
            return "; for logits of shape (examples, classes, …) say class_axis=1"
        return None

    def check_inputs(self, x: Any, y: Any) -> None:
        words = x.get("input_ids") if isinstance(x, Mapping) else None
        if self.shift or not isinstance(words, Tensor) or not isinstance(y, Tensor) or words.shape != y.shape:
            return
        if y.dim() > 1 and y.shape[1] > 1 and bool(((y == words) | (y == self.ignore_index)).all()):
            raise ValueError(
                "the labels repeat input_ids, so each output would learn its own input: for a causal language model, "
                "whose output is about the next one, say shift=True"
            )

    def distribution(self, output: Tensor) -> TorchDistributionMixin:
        return dist.Categorical(logits=output, validate_args=False).to_event(output.dim() - 2)

    def observe(self, site: str, output: Tensor, y: Tensor | None) -> None:
        plain = self.weight is None and not self.label_smoothing
        if y is None or (plain and not y.is_floating_point() and not bool((y == self.ignore_index).any())):
            super().observe(site, output, y)
        else:
            pyro.factor(site, -self._cross_entropy(output, y, self.weight, self.label_smoothing))

    def log_prob(self, output: Tensor, y: Tensor) -> Tensor:
        return -self._cross_entropy(output, y)

    def _cross_entropy(self, output: Tensor, y: Tensor, weight: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        soft = y.is_floating_point()
        found = F.cross_entropy(
            output.reshape(-1, output.shape[-1]),
            y.reshape(-1, output.shape[-1]) if soft else y.flatten(),
            None if weight is None else weight.to(output),
            ignore_index=-100 if soft else self.ignore_index,
            reduction="none",
            label_smoothing=smoothing,
        )
        return found.reshape(len(output), -1).sum(-1)

    def mean(self, output: Tensor) -> Tensor:
        return output.softmax(-1)

    def uncertainty(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mutual information of label and weights, and the mean entropy over draws, nats: (examples, …)."""
        probs = outputs.softmax(-1)
        total, left = (torch.special.entr(p).sum(-1) for p in (probs.mean(0), probs))
        return (total - left.mean(0)).clamp_min(0), left.mean(0)

    def observations(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What has a label: logits (…, observations, classes), and labels or shares of checked targets; ``output`` may
        have axes before those of ``y``."""
        classes = output.shape[-1]
        ahead = output.shape[: output.dim() - y.dim() - (not y.is_floating_point())]
        output = output.reshape(*ahead, -1, classes)
        if y.is_floating_point():
            return output, y.reshape(-1, classes)
        there = y.flatten() != self.ignore_index
        return output[..., there, :], y.flatten()[there]

    def losses(self, outputs: Tensor, y: Any) -> Losses:
        outputs, y = self.observations(outputs, self.check(outputs[0], y))
        log_p = mixture(outputs.log_softmax(-1))
        p = log_p.exp()
        confidence, answer = p.max(-1)
        if y.is_floating_point():
            nll, brier = -torch.where(y > 0, y * log_p, 0.0).sum(-1), (p - y).square().sum(-1)
            y = y.argmax(-1)
        else:
            nll, hit = (of.gather(-1, y[:, None]).squeeze(-1) for of in (-log_p, p))
            brier = p.square().sum(-1) - 2 * hit + 1
        if not len(y):
            raise ValueError(f"there is nothing to score: every label is ignore_index={self.ignore_index}")
        commonest = int(y.bincount().max()) / len(y)
        return Losses(
            *(nll, answer != y, confidence, brier),
            classes=p.shape[-1],
            group=y,
            answer=answer,
            one_answer=1 - commonest,
        )

    def no_density(self, y: Any) -> str | None:
        if self.weight is not None or self.label_smoothing:
            return "class weights and label smoothing are no density of labels"
        return "soft labels are no draws of labels" if y is not None and y.is_floating_point() else None


def _within(labels: Tensor, classes: int) -> bool:
    """Whether all labels are numbers of classes."""
    return not labels.numel() or bool(((labels >= 0) & (labels < classes)).all())


def _check_shares(output: Tensor, y: Tensor) -> Tensor:
    """``y`` in the logits' dtype; raises ``ValueError`` unless it holds a probability for each class."""
    if y.shape != output.shape:
        raise ValueError(
            f"probabilities of shape {tuple(y.shape)} do not go with logits of shape {tuple(output.shape)}: expected "
            "one for each class"
        )
    y = y.to(output.dtype)
    if not bool((y >= 0).all()) or not bool(((y.sum(-1) - 1).abs() < 1e-2).all()):
        raise ValueError("soft labels must be probabilities: none below 0, and 1 in all over the classes")
    return y
