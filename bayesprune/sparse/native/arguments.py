"""Arguments of a compiled kernel: numbers, addresses and scratch memory."""

import ctypes
import struct
import threading

import torch

__all__ = ["ARGS", "workspace"]

# The slots of the array.
ARGS = {
    name: slot
    for slot, name in enumerate(
        (
            *("x", "y", "values", "crow", "col", "bias", "scale", "scratch", "scratch_bytes"),
            *("tokens", "inputs", "outputs", "rows", "chunk", "chunks", "items", "next", "thread"),
            *("table", "across", "down", "line", "image", "group_rows", "group_inputs"),
        )
    )
}
_LAYOUT = struct.Struct(f"{len(ARGS)}q")


class _Workspace(threading.local):
    """What a thread keeps from one call to the next."""

    def __init__(self) -> None:
        self._array = ctypes.create_string_buffer(_LAYOUT.size)
        self.address = ctypes.addressof(self._array)
        self._scratch = self._images = torch.empty(0, dtype=torch.uint8)

    def fill(self, *numbers: int) -> int:
        """The address of the array, which now holds ``numbers`` in the order of ``ARGS``."""
        _LAYOUT.pack_into(self._array, 0, *numbers)
        return self.address

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
