"""Check that the compacted net gives the masked net's results."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.sparse.checks import call

__all__ = ["difference"]


def difference(dense: nn.Module, compact: nn.Module, example: object) -> float:
    """The largest difference of the nets' results, relative to the largest entry of the dense net's.

    On the example and on noise of its shape, in float64 where the nets run in it. Infinite where shapes differ.

    Raises:
        Exception: whatever the smaller net's forward raises.
    """
    wide, inputs = copy.deepcopy(dense).double(), _mapped(example, lambda x: x.double())
    try:
        with torch.no_grad():
            call(wide, inputs)
        dense, compact, example = wide, copy.deepcopy(compact).double(), inputs
    except Exception:  # a dtype that is written into a forward
        pass
    worst = 0.0
    for given in (example, _noise(example)):
        with torch.no_grad():
            expected, got = _tensors(call(dense, given)), _tensors(call(compact, given))
        if len(expected) != len(got):
            return float("inf")
        worst = max([worst, *(_apart(a, b) for a, b in zip(expected, got, strict=True))])
    return worst


def _noise(example: object) -> object:
    generator = torch.Generator().manual_seed(0)

    def noisy(x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x.device, x.dtype)
        scale = x.std() if x.numel() > 1 else x.abs().max()
        return noise * torch.where(scale > 0, scale, torch.ones_like(scale)) + x.mean()

    return _mapped(example, noisy)


def _mapped(value: Any, change: Any) -> Any:
    """``value`` with its finite floating-point tensors changed: masks with infinities stay."""
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() and bool(value.isfinite().all()) else value
    if isinstance(value, Mapping):
        return {key: _mapped(one, change) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_mapped(one, change) for one in value)
    return value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [x for one in value.values() for x in _tensors(one)]
    if isinstance(value, tuple | list):
        return [x for one in value for x in _tensors(one)]
    return []


def _apart(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if not a.numel() or not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else float("inf")
    a, b = a.double(), b.double()
    if not torch.equal(a.isfinite(), b.isfinite()):
        return float("inf")
    finite = a.isfinite()
    if not bool(finite.any()):
        return 0.0
    apart, largest = float((a - b)[finite].abs().max()), float(a[finite].abs().max())
    return apart if largest == 0 else apart / largest
