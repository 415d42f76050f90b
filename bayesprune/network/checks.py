"""Checks of what a net with a posterior is made of and draws."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bayesprune.methods.base import Posterior

__all__ = ["check_runs", "effective"]


def effective(name: str, posterior: Posterior) -> Tensor:
    """A draw of the weight that the net sees; raises ``ValueError`` where Pyro's handlers gave it another shape."""
    weight = posterior.effective()
    if tuple(weight.shape) != posterior.layout.shape:
        raise ValueError(
            f"the draw of {name!r} has shape {tuple(weight.shape)}, the weight {posterior.layout.shape}: call the "
            "net outside any pyro.plate, and run Predictive and ELBOs without vectorised particles"
        )
    return weight


def check_runs(net: nn.Module) -> None:
    """Raise ``TypeError`` for what cannot be run on values other than its own."""
    if isinstance(net, torch.jit.ScriptModule):
        raise TypeError("net must be the nn.Module itself, not what TorchScript made of it")
    if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise TypeError(f"net must be the nn.Module itself, not {type(net).__name__} around it: give net.module")
    if made := [name for name, p in net.named_parameters() if not is_lazy(p) and p.is_inference()]:
        raise TypeError(
            f"{made[0]!r} was made in inference mode and cannot be trained: make the net outside of "
            "torch.inference_mode()"
        )
