"""Selections of a weight's entries, and their dimension names for labelled arrays."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesprune._names import matching
from bayesprune.layout import Layout
from bayesprune.network.bayesian_net import BayesianNet

__all__ = ["Entries", "chosen", "label_of", "numpy_of", "numpy_type"]

_SAMPLE = {"chain", "draw"}


@dataclass(frozen=True)
class Entries:
    """The entries of a weight that are looked at.

    Args:
        name: the weight's name; arrays go by its :attr:`label`.
        layout: the roles of its axes.
        index: slices by axis, one for each, or a bool mask of the weight's shape.

    >>> some = Entries("fc.weight", Layout((4, 6)), (slice(None), slice(0, 2)))
    >>> some.dims, some.shape, some.of(torch.ones(4, 6)).shape
    (('fc.weight_out', 'fc.weight_in'), (4, 2), (4, 2))
    """

    name: str
    layout: Layout
    index: tuple[slice, ...] | Tensor

    @property
    def label(self) -> str:
        """The weight's name as a NetCDF file can hold it, its escapes in hexadecimal: a slash is ``%2F``."""
        return label_of(self.name)

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of all of the weight's axes."""
        roles = ("in", "out") if self.layout.transposed else ("out", "in")
        kernel = len(self.layout.kernel)
        positions = ("kernel",) if kernel == 1 else tuple(f"kernel_{i}" for i in range(kernel))
        return tuple(f"{self.label}_{role}" for role in (*roles, *positions)[: len(self.layout.shape)])

    @property
    def dims(self) -> tuple[str, ...]:
        """The axes of what :meth:`of` gives: the weight's, or under a mask one, ``<name>_entry``."""
        return (f"{self.label}_entry",) if isinstance(self.index, Tensor) else self.axes

    @property
    def coords(self) -> dict[str, Any]:
        """xarray's coordinates of :attr:`dims`; under a mask the weight's own axes lie along the one."""
        if isinstance(self.index, Tensor):
            places = np.nonzero(self.index.cpu().numpy())
            at = {axis: (self.dims, place) for axis, place in zip(self.axes, places, strict=True)}
            return {self.dims[0]: np.arange(self.shape[0]), **at}
        ranges = zip(self.axes, self.layout.shape, self.index, strict=True)
        return {axis: np.arange(size)[index] for axis, size, index in ranges}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what :meth:`of` gives."""
        if isinstance(self.index, Tensor):
            return (int(self.index.sum()),)
        return tuple(len(range(size)[index]) for size, index in zip(self.layout.shape, self.index, strict=True))

    @property
    def outputs(self) -> int:
        """How many outputs the weight has."""
        return self.layout.roles[0] * self.layout.roles[1]

    def of(self, value: Tensor) -> np.ndarray:
        """The entries of ``value``, a tensor of the weight's shape."""
        index = self.index
        return numpy_of(value[index.to(value.device) if isinstance(index, Tensor) else index])

    def rms(self, value: Tensor) -> np.ndarray:
        """The root mean square over each output's weights, all of them: (outputs,)."""
        return numpy_of(self.layout.matrix(value).square().mean((2, 3)).sqrt().flatten())


def chosen(bnet: BayesianNet, weights: Sequence[str] | Mapping[str, Any] | None) -> list[Entries]:
    """The entries that globs over weight names choose, or a mapping from globs to slices or masks; all for ``None``.

    Raises:
        ValueError: a glob that matches no weight with a posterior, or slices or a mask that do not fit.
    """
    if weights is None:
        weights = list(bnet.posteriors)
    elif isinstance(weights, str):
        weights = [weights]
    found: dict[str, Entries] = {}
    for glob, index in (weights if isinstance(weights, Mapping) else dict.fromkeys(weights)).items():
        names = matching(glob, bnet.posteriors)
        if not names:
            raise ValueError(
                f"weights= has {glob!r}, which matches no weight with a posterior: {list(bnet.posteriors)}"
            )
        for name in names:
            layout = bnet.posteriors[name].layout
            found.setdefault(name, Entries(name, layout, _index(name, layout.shape, index)))
    _check_labels(list(found.values()))
    return list(found.values())


def _check_labels(entries: list[Entries]) -> None:
    """Raise ``ValueError`` where two arrays would have one name: a weight and an axis of another, say."""
    owners = dict.fromkeys(_SAMPLE, "ArviZ's own axis")
    for e in entries:
        of_weight = (e.label, f"{e.label}_rms", f"{e.label}_mask", f"{e.label}_snr", f"{e.label}_out")
        for label in {*of_weight, *e.dims, *e.axes}:
            if label in owners:
                raise ValueError(
                    f"what belongs to {e.name!r} and to {owners[label]} would both be called {label!r}: leave one of "
                    "them out with weights=, or rename the parameter"
                )
            owners[label] = repr(e.name)


def label_of(name: str) -> str:
    """A name as a NetCDF file can hold it, its escapes in hexadecimal.

    >>> label_of("user/item")
    'user%2Fitem'
    """
    held = re.sub(r"[%/\x00-\x1f\x7f\ud800-\udfff]", _escaped, name)
    return re.sub(r"^\s|\s$", _escaped, held)


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogatepass"))


def _index(name: str, shape: tuple[int, ...], index: Any) -> tuple[slice, ...] | Tensor:
    if isinstance(index, Tensor):
        if index.dtype == torch.bool and tuple(index.shape) == shape:
            return index
        got = f"{index.dtype} of shape {tuple(index.shape)}"
    else:
        parts = () if index is None else index if isinstance(index, tuple) else (index,)
        steps = all(isinstance(p, slice) and (p.step is None or p.step > 0) for p in parts)
        if steps and len(parts) <= len(shape):
            return (*parts, *(slice(None) for _ in shape[len(parts) :]))
        got = repr(index)
    raise ValueError(
        f"what to keep of {name!r} is slices by axis with steps ≥ 1, such as np.s_[:10, ::2], or a bool tensor of its "
        f"shape {shape}; got {got}"
    )


def numpy_type(value: Tensor) -> np.dtype:
    """The type of :func:`numpy_of`: the tensor's own, float32 for half precision."""
    if value.dtype in (torch.float16, torch.bfloat16):
        return np.dtype(np.float32)
    return np.dtype(str(value.dtype).removeprefix("torch."))


def numpy_of(value: Tensor) -> np.ndarray:
    """``value`` as an array on the CPU."""
    return value.detach().cpu().to(getattr(torch, numpy_type(value).name)).numpy()
