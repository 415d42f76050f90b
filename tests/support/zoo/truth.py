"""What plain torch computes, and how far another result is from it."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune._state_dicts import whole

__all__ = ["apart", "call", "masked", "quiet", "results", "scrambled"]


def call(net: Any, inputs: object) -> Any:
    """``net`` on a tensor, a tuple of arguments or a dict of them."""
    if isinstance(inputs, Mapping):
        return net(**inputs)
    return net(*inputs) if isinstance(inputs, tuple) else net(inputs)


def results(output: Any) -> list[Tensor]:
    """The tensors in a result, however it is nested."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [x for one in output.values() for x in results(one)]
    if isinstance(output, (tuple, list)):
        return [x for one in output for x in results(one)]
    return []


def apart(found: Any, truth: Any) -> float:
    """The largest difference of two results, relative to the largest entry of the true one, tensor by tensor."""
    ours, theirs = results(found), results(truth)
    if [x.shape for x in ours] != [x.shape for x in theirs] or not theirs:
        return float("inf")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if b.numel():
            a, b = a.detach().double(), b.detach().double()
            worst = max(worst, float((a - b).abs().nan_to_num(torch.inf).max() / b.abs().max().clamp_min(1e-12)))
    return worst


def quiet(net: nn.Module) -> nn.Module:
    """``net`` with nothing random in training mode: dropout drops nothing, RReLU has one slope."""
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if isinstance(module, nn.RReLU):
            module.lower = module.upper
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and "drop" in name:
                setattr(module, name, 0.0)
    return net


def scrambled(net: nn.Module) -> nn.Module:
    """``net`` with biases, norms and statistics as after training: none of them is 0 or 1 any more."""
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() < 2 and parameter.is_floating_point():
                parameter.add_(0.2 * torch.randn_like(parameter))
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
    return net


@torch.no_grad()
def masked(net: nn.Module, means: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy of ``net`` in eval mode that holds ``means``, and 0 where ``masks`` drop."""
    dense, means = copy.deepcopy(net).eval(), whole(means)
    for name, x in (*dense.named_parameters(), *dense.named_buffers()):
        x.copy_(means.get(name, x) * masks.get(name, torch.ones((), dtype=x.dtype)))
    return dense
