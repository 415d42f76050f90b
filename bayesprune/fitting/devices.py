"""Device checks and placement for a fit."""

import torch
from torch import nn

__all__ = ["check_device", "place"]


def check_device(device: torch.device | str) -> torch.device:
    """The device, if it is there.

    Raises:
        ValueError: it is not, or the name means nothing.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ValueError(f"{device!r} names no device; say cpu, cuda, cuda:1 or mps") from None
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(wanted.type, True):
        raise ValueError(f"device {str(device)!r} was asked for, and torch finds none here; use device='cpu'")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {str(device)!r} was asked for, and torch finds {torch.cuda.device_count()} here")
    return wanted


def place(device: torch.device | str | None, net: nn.Module) -> torch.device:
    """The device asked for, or else that of the net's parameters."""
    return next(iter(net.parameters()), torch.zeros(0)).device if device is None else check_device(device)
