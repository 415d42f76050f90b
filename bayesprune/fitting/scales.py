"""Data whose scale or type a fit would suffer from: said before the first step."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from bayesprune.fitting.batches import split
from bayesprune.likelihoods import Categorical, Normal
from bayesprune.likelihoods.batch import call
from bayesprune.network.bayesian_net import BayesianNet

__all__ = ["ScaleWarning", "check_scales"]

_DECADES = 1e4
_SDS = (0.1, 10.0)


class ScaleWarning(UserWarning):
    """The data's scale or type is one that a fit suffers from."""


def check_scales(bnet: BayesianNet, loader: Any, batch: Any) -> None:
    """Look at inputs and targets before the first step: all of them where they lie in tensors, else the first batch.

    Raises:
        ValueError: a class label that the net has no output for.

    Warns:
        ScaleWarning: columns of inputs whose ranges differ by more than four decades, real targets whose sd is far
            from 1 or whose mean is far from 0, or inputs of float64 for a net of float32.
    """
    x, y = _whole(bnet, loader, batch)
    if isinstance(x, Tensor) and x.is_floating_point():
        _check_inputs(bnet, x)
    if not isinstance(y, Tensor):
        return
    if isinstance(bnet.observation, Normal) and y.is_floating_point() and y.numel() > 1:
        _check_targets(y)
    if isinstance(bnet.observation, Categorical) and not y.is_floating_point():
        inputs, labels = split(bnet, batch)
        y = y.long()  # torch compares no unsigned integers
        if isinstance(labels, Tensor) and bool((y > labels.long().max()).any()):  # the first step looks at the others
            _check_classes(bnet, bnet.observation, inputs, y)


def _whole(bnet: BayesianNet, loader: Any, batch: Any) -> tuple[Any, Any]:
    data = loader.dataset if isinstance(loader, DataLoader) else None
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        return data.tensors[0], data.tensors[1]
    x, y = split(bnet, batch)
    if isinstance(loader, Sequence) and isinstance(y, Tensor) and y.dim():
        others = [split(bnet, one)[1] for one in loader]
        if all(isinstance(other, Tensor) and other.shape[1:] == y.shape[1:] for other in others):
            y = torch.cat(others)
    return x, y


def _check_inputs(bnet: BayesianNet, x: Tensor) -> None:
    types = {p.dtype for p in bnet.parameters() if p.is_floating_point()}
    if x.dtype == torch.float64 and types == {torch.float32}:
        warnings.warn(
            "the inputs are float64 and the net's parameters float32, which most layers refuse: give x.float(), or a "
            "net in float64",
            ScaleWarning,
            stacklevel=6,
        )
    if x.dim() == 2 and len(x) > 1 and x.layout == torch.strided:
        ranges = x.amax(0) - x.amin(0)
        ranges = ranges[torch.isfinite(ranges) & (ranges > 0)]
        if len(ranges) > 1 and float(ranges.max() / ranges.min()) > _DECADES:
            warnings.warn(
                f"the columns of the inputs have ranges from {float(ranges.min()):.2g} to {float(ranges.max()):.2g}: "
                "the widest decide alone, and a prior of one scale fits none. Standardise them, x = (x - mean) / sd, "
                "with mean = x.mean(0) and sd = x.std(0) of the training data",
                ScaleWarning,
                stacklevel=6,
            )


def _check_targets(y: Tensor) -> None:
    sd, mean = (float(part) for part in torch.std_mean(y.double().reshape(len(y), -1)))
    if not (_SDS[0] <= sd <= _SDS[1] and abs(mean) <= _SDS[1]):
        warnings.warn(
            f"the targets have mean {mean:.3g} and standard deviation {sd:.3g}, and the noise starts at 1: weights and "
            "noise take long to get there, and the prior is against it. Standardise them, y = (y - mean) / sd, with "
            "the training data's numbers, and take predictions back by mean + sd * y",
            ScaleWarning,
            stacklevel=6,
        )


@torch.no_grad()
def _check_classes(bnet: BayesianNet, likelihood: Categorical, x: Any, y: Tensor) -> None:
    found = y[y != likelihood.ignore_index]
    if not found.numel():
        return
    training, device = bnet.training, next(iter(bnet.parameters())).device
    means = bnet.means()
    bnet.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            output = likelihood.take(call(partial(bnet.run, means), send_to_device(x, device)))
    finally:
        bnet.train(training)
    classes = output.shape[-1] if isinstance(output, Tensor) else 0
    highest = int(found.max())
    if highest >= classes > 0:
        raise ValueError(
            f"labels must lie in 0…{classes - 1} for {classes} logits, and the data hold {highest}: give the net "
            f"{highest + 1} outputs, or relabel the data"
        )
