"""Comparison of a net with the dense one that it stands for: the same inputs, the same draws, results side by side."""

import math
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bayesprune._copies import copied
from bayesprune.sparse.checks import call, each_tensor, without_fast_paths
from bayesprune.sparse.layers.linear import SparseLinear

__all__ = ["apart", "inputs_like", "results", "tolerance"]


def inputs_like(example: object) -> dict[str, object]:
    """What two nets are compared on, by what it is: the example, noise of its shape, another number of inputs.

    Noise has the mean and the spread of each floating-point tensor; what holds integers stays, and so does a mask with
    infinities. Where integers may point into what would be cut, as the edges of a graph do, the number stays as it is.

    >>> {what: tuple(x.shape) for what, x in inputs_like(torch.ones(5, 3)).items()}
    {'the example': (5, 3), 'noise of its shape': (5, 3), 'a batch of 2': (2, 3)}
    """
    example = dict(example) if isinstance(example, Mapping) else example
    found = {"the example": example}
    if any(_is_noisy(x) for x in tree_leaves(example)):
        found["noise of its shape"] = _noise(example)
    tensors = [x for x in tree_leaves(example) if isinstance(x, Tensor) and x.dim() and not x.is_nested]
    lengths = [len(x) for x in tensors]
    pointing = any(len(x) != lengths[0] and not x.is_floating_point() and x.dtype != torch.bool for x in tensors)
    if lengths and not pointing:
        other = 3 if lengths[0] == 2 else 2

        def cut(x: Tensor) -> Tensor:
            if x.is_nested or not x.dim() or len(x) != lengths[0]:
                return x
            return x[torch.arange(other, device=x.device) % lengths[0]]

        found[f"a batch of {other}"] = each_tensor(found.get("noise of its shape", example), cut)
    return found


def _is_noisy(x: object) -> bool:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.is_nested or x.layout != torch.strided:
        return False
    if not x.numel() or not bool(x.isfinite().all()):
        return False
    # on a GPU an index out of range ends the process: whole numbers may be one
    return not x.is_cuda or bool((x != x.round()).any()) or bool((x == x.flatten()[0]).all())


def _noise(example: object) -> object:
    generator = torch.Generator().manual_seed(0)

    def noisy(x: Tensor) -> Tensor:
        if not _is_noisy(x):
            return x
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x.device, x.dtype)
        scale = x.std() if x.numel() > 1 else x.abs().max()
        return (noise * torch.where(scale > 0, scale, torch.ones_like(scale)) + x.mean()).detach()

    return each_tensor(example, noisy)


@contextmanager
def _same_draws() -> Iterator[None]:
    """Within, whatever draws random numbers draws the same ones, and nobody outside notices."""
    ours, numpys = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            torch.set_rng_state(torch.Generator().manual_seed(0).get_state())  # also of a thread that has its own
            for i in devices:
                torch.cuda.default_generators[i].manual_seed(0)
            random.seed(0)
            np.random.seed(0)
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)


def results(
    net: nn.Module, given: object, *, training: bool = False, caches: bool = True, fast_paths: bool = False
) -> list[object]:
    """The tensors and numbers that ``net`` gives on ``given``, which it runs on in a copy over the same parameters.

    What its forward writes to buffers and attributes is gone with the copy. Without ``caches``, what a decoder keeps of
    its keys and values is passed over. Without ``fast_paths``, torch's encoders take none.

    Raises:
        Exception: whatever its forward raises.
    """
    packed = (x for m in net.modules() if isinstance(m, SparseLinear) for x in m.buffers(recurse=False))
    alone = copied(net, {x: x for x in (*net.parameters(), *packed)})
    if training:
        alone.train()
    own = nullcontext() if fast_paths else without_fast_paths()
    with torch.no_grad(), _same_draws(), own, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(_leaves(call(alone, given), set(), caches))


def _leaves(value: Any, seen: set[int], caches: bool) -> Iterator[object]:
    """The tensors and numbers in a result, with what they are called, whatever classes hold them."""
    if isinstance(value, Tensor):
        yield from (
            value.unbind() if value.is_nested else (value.to_dense() if value.layout != torch.strided else value,)
        )
    elif value is None or isinstance(value, str | bytes | bool | int | float | complex | torch.Size | np.generic):
        yield value
    elif isinstance(value, np.ndarray):
        yield torch.from_numpy(value) if value.dtype.kind in "fiub" else value.tolist()
    elif id(value) in seen or isinstance(value, nn.Module | type | torch.Generator) or callable(value):
        return
    elif caches or not any("Cache" in kind.__name__ for kind in type(value).__mro__):
        seen.add(id(value))
        for key, one in _parts(value):
            yield key
            yield from _leaves(one, seen, caches)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), one) for key, one in value.items())
    elif isinstance(value, tuple | list):
        yield from ((str(i), one) for i, one in enumerate(value))
    elif is_dataclass(value):
        yield from ((field.name, getattr(value, field.name, None)) for field in fields(value))
    else:
        yield from getattr(value, "__dict__", {}).items()


def tolerance(x: Tensor) -> float:
    """How far two results may be apart by roundings alone, relative to the largest entry."""
    on_tensor_cores = x.is_cuda and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)
    rounding = torch.finfo(x.dtype).eps if x.is_floating_point() or x.is_complex() else 0.0
    return max(1e-2 if on_tensor_cores else 1e-4, 16 * rounding)


def apart(expected: list[object], got: list[object]) -> tuple[float, float]:
    """How far two results are apart, relative to the largest entry, where they are furthest; and by how many roundings.

    The second is in units of :func:`tolerance`: at most 1 where they are the same. Infinite where anything but
    floating-point entries is another; what is NaN in ``expected`` is not looked at.

    >>> apart([torch.tensor([1.0, 4.0])], [torch.tensor([1.0, 2.0])])[0]
    0.5
    """
    if len(expected) != len(got):
        return math.inf, math.inf
    worst = 0.0, 0.0
    for a, b in zip(expected, got, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            far = _apart(a, b)
            worst = max(worst, (far, far / tolerance(a)), key=lambda pair: pair[1])
        elif isinstance(a, float) and isinstance(b, float):
            worst = max(worst, apart([torch.tensor(a)], [torch.tensor(b)]), key=lambda pair: pair[1])
        elif type(a) is not type(b) or a != b:
            return math.inf, math.inf
    return worst


def _apart(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    if not a.numel() or not (a.is_floating_point() or a.is_complex()):
        return 0.0 if torch.equal(a, b) else math.inf
    a, b = (torch.view_as_real(x) if x.is_complex() else x for x in (a.detach(), b.detach()))
    a, b = a.double(), b.double()
    finite = a.isfinite()
    if not bool(torch.where(finite, b.isfinite(), a.isnan() | (a == b)).all()):
        return math.inf
    if not bool(finite.any()):
        return 0.0
    furthest, largest = float((a - b)[finite].abs().max()), float(a[finite].abs().max())
    return furthest if largest == 0 else furthest / largest
