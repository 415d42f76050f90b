"""Devices that the Triton kernels support, and in words why others are refused."""

import os
from functools import cache
from importlib.util import find_spec

import torch

__all__ = ["interpreted", "obstacle", "require_gpu", "triton_is_there"]

_OLDEST = (8, 0)  # Ampere: bfloat16 and asynchronous copies


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on tensors of a CPU: ``TRITON_INTERPRET=1`` at the start."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def triton_is_there() -> bool:
    """Whether Triton is installed; it is not imported."""
    return find_spec("triton") is not None


@cache
def _on_cuda(device: torch.device) -> str | None:
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU here: torch.cuda.is_available() is False"
    if torch.version.hip is not None:
        return "torch is built for ROCm, and the Triton kernels are made for CUDA"
    if (device.index or 0) >= torch.cuda.device_count():
        return f"torch finds {torch.cuda.device_count()} CUDA GPUs here, and {str(device)!r} is not among them"
    capability = torch.cuda.get_device_capability(device)
    if capability >= _OLDEST:
        return None
    name, has, needs = torch.cuda.get_device_name(device), *("{}.{}".format(*c) for c in (capability, _OLDEST))
    return f"{name} has compute capability {has}, and the Triton kernels need {needs} or newer"


def obstacle(device: torch.device) -> str | None:
    """Why the Triton kernels cannot run on ``device``, in words; None where they can.

    >>> obstacle(torch.device("meta"))
    "the Triton kernels run on a CUDA GPU, and the tensors are on 'meta'"
    """
    if not triton_is_there():
        return "Triton is not installed: pip install 'bayesprune[gpu]' (Linux)"
    if device.type == "cpu" and interpreted():
        return None
    if device.type != "cuda":
        return f"the Triton kernels run on a CUDA GPU, and the tensors are on {str(device)!r}"
    return _on_cuda(device)


def require_gpu(device: torch.device | None = None) -> torch.device:
    """The GPU that the Triton kernels run on: ``device``, or the current one.

    Raises:
        ValueError: there is none, it is too old, or Triton is not installed; says which.
    """
    device = torch.device("cuda") if device is None else device
    why = obstacle(device)
    if why is not None:
        raise ValueError(f"expected a CUDA GPU of compute capability {_OLDEST[0]}.{_OLDEST[1]} or newer: {why}")
    return device
