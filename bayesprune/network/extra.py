"""Plain values encoded as a byte tensor, so that a state dict holds tensors alone."""

import json
from typing import Any

import torch
from torch import Tensor

__all__ = ["packed", "unpacked"]


def packed(values: dict[str, Any]) -> Tensor:
    """What JSON can say, as a uint8 tensor.

    >>> unpacked(packed({"uses": {"fc.weight": 2}}))
    {'uses': {'fc.weight': 2}}
    """
    return torch.tensor(list(json.dumps(values).encode()), dtype=torch.uint8)


def unpacked(state: Tensor) -> dict[str, Any]:
    """The values that :func:`packed` was given."""
    return json.loads(bytes(state.tolist()))
