"""Arguments of a compiled kernel: one structure of numbers and addresses, and scratch memory."""

import ctypes
import threading

import torch

__all__ = ["SLOTS", "Arguments", "workspace"]


class Arguments(ctypes.Structure):
    """The arguments of a compiled kernel, which reads each at its slot; addresses are numbers too.

    A convolution walks by the fields from ``table`` on; in a product they are not read.
    """

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("x", "y", "values", "crow", "col", "bias", "scale", "scratch", "scratch_bytes"),
            *("tokens", "inputs", "outputs", "rows", "chunk", "chunks", "items", "next", "thread"),
            *("table", "across", "down", "line", "image", "group_rows", "group_inputs"),
        )
    ]


SLOTS = {name: slot for slot, (name, *_) in enumerate(Arguments._fields_)}


class _Workspace(threading.local):
    """What a thread keeps from one call to the next."""

    def __init__(self) -> None:
        self.arguments = Arguments()
        self.address = ctypes.addressof(self.arguments)
        self._scratch = self._images = torch.empty(0, dtype=torch.uint8)

    def scratch(self, size: int) -> int:
        """The address of ``size`` bytes, a multiple of 64."""
        if self._scratch.numel() < size + 64:
            self._scratch = torch.empty(size + 64, dtype=torch.uint8)
        return -(-self._scratch.data_ptr() // 64) * 64

    def images(self, size: int) -> torch.Tensor:
        """``size`` bytes or more, for what a convolution reads."""
        if self._images.numel() < size:
            self._images = torch.empty(-(-size // 64) * 64, dtype=torch.uint8)
        return self._images


workspace = _Workspace()
