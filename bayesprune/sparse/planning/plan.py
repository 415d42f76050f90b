"""``Plan``: per weight, the chosen format and kernel, and the reason."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bayesprune.sparse.formats import Format

__all__ = ["Choice", "Plan", "Whole", "against", "mask_hash"]


def mask_hash(mask: Tensor) -> str:
    """A hash of a mask, which changes with each of its bits.

    >>> mask_hash(torch.eye(2, dtype=torch.bool)) == mask_hash(~torch.eye(2, dtype=torch.bool))
    False
    """
    bits = np.packbits(mask.detach().cpu().contiguous().reshape(-1).numpy())
    return hashlib.sha256(bits.data).hexdigest()


def _times(ratio: float) -> str:
    return f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.0f}×"


def against(packed: float, dense: float) -> str:
    """Two times in seconds, as words."""
    return f"{packed * 1e6:,.0f} µs against {dense * 1e6:,.0f} µs"


@dataclass(frozen=True)
class Whole:
    """The module that a weight was timed within, as a whole: its class, and the seconds of a call of either way."""

    kind: str
    dense: float
    packed: float

    @property
    def ratio(self) -> float:
        """Dense time over packed time."""
        return self.dense / self.packed


@dataclass(frozen=True)
class Choice:
    """What becomes of one masked weight, and what that was decided on. ``reason`` tells it in words.

    Args:
        name: the parameter's name.
        shape: its shape.
        kept: how many of its entries the mask keeps.
        format: how it will run; ``Dense()`` for a weight that stays masked dense in its own module.
        kernel: what multiplies; empty for ``Dense()``.
        tokens: rows of the layer's input on the example, or images; 0 where nothing was timed.
        seconds: the median time of one call of each candidate; the key is ``"dense"`` or ``"BSR(16, 1) gather"``.
        nbytes: bytes of the values and indices as it will run.
        dense_nbytes: bytes of the dense weight.
        mask: a hash of its mask, see :func:`mask_hash`.
        obstacle: why nothing was timed; empty where it was.
        image: rows and columns of the images, where a convolution was timed.
        measured: when the seconds were measured, where that was before; else empty.
        forced: the format that was asked for, if any.
        stored: how many values the fastest candidate that packs it stores.
        whole: the module that it was timed within, if any.
        fused: the paths of what follows the layer and is worked out in it, as the net's trace tells.
        unfused: why no more of what follows is; empty for ``Dense()``.
        contiguous: whether a packed convolution's result is made so, for the net takes a view of it that needs it.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    format: Format
    kernel: str
    tokens: int
    seconds: Mapping[str, float]
    nbytes: int
    dense_nbytes: int
    mask: str = ""
    obstacle: str = ""
    image: tuple[int, int] | None = None
    measured: str = ""
    forced: Format | None = None
    stored: int = 0
    whole: Whole | None = None
    fused: tuple[str, ...] = ()
    unfused: str = ""
    contiguous: bool = False

    @property
    def fastest(self) -> str:
        """The fastest candidate that packs the weight, by its key in ``seconds``; empty where there was none."""
        packed = {label: s for label, s in self.seconds.items() if label != "dense"}
        return min(packed, key=packed.__getitem__, default="")

    @property
    def reason(self) -> str:
        """Why it runs so: one sentence."""
        if not self.seconds:
            asked = self.forced is not None and not self.forced.is_dense
            return f"masked dense: {self.obstacle}" + (f"; {self.forced} was asked for" if asked else "")
        if self.whole is None:
            return self._own_reason()
        told = f"{self.whole.kind} as a whole: {_times(self.whole.ratio)} dense"
        if not self.format.is_dense:
            return f"{self._own_reason()}; {told}"
        return f"masked dense: {told}, {against(self.whole.packed, self.whole.dense)} ({self._own_reason()})"

    def _own_reason(self) -> str:
        """Why the layer runs so, taken alone."""
        best, when = self.fastest, f"measured {self.measured}" if self.measured else "measured"
        if not best:
            return "dense: asked for" if self.forced is not None else "dense: no kernel takes it packed"
        ratio = self.seconds["dense"] / self.seconds[best]
        if self.format.is_dense and self.whole is None:
            return f"dense: fastest {self.at}, {when} ({best}: {_times(ratio)})"
        share = f"{ratio * self.density:.0%} of the ideal"
        told = f"{best}: {_times(ratio)} dense {self.at}, {when}, {share}"
        if self.forced is None:
            return told
        padded = self.stored > self.kept > 0
        more = f", storing {self.stored / self.kept:.1f}× what the mask keeps" if padded else ""
        return f"{told}, asked for{more}"

    @property
    def at(self) -> str:
        """What it was timed on, in words."""
        s = "s" * (self.tokens != 1)
        if self.image is None:
            return f"at {self.tokens} token{s}"
        return f"at {self.tokens} image{s} of {self.image[0]}×{self.image[1]}"

    @property
    def density(self) -> float:
        """The fraction of the entries that is kept."""
        return self.kept / max(torch.Size(self.shape).numel(), 1)

    @property
    def label(self) -> str:
        """The chosen candidate's key in ``seconds``."""
        return "dense" if self.format.is_dense else f"{self.format} {self.kernel}"

    @property
    def speedup(self) -> float | None:
        """Dense time over chosen time, as measured; None where nothing was timed."""
        return self.seconds["dense"] / self.seconds[self.label] if self.seconds else None

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "shape": list(self.shape),
            "kept": self.kept,
            "density": self.density,
            "format": str(self.format),
            "kernel": self.kernel,
            "reason": self.reason,
            "fused": list(self.fused),
            "unfused": self.unfused,
            "contiguous": self.contiguous,
            "tokens": self.tokens,
            "seconds": dict(self.seconds),
            "speedup": self.speedup,
            "bytes": self.nbytes,
            "dense_bytes": self.dense_nbytes,
        }


@dataclass(frozen=True, repr=False)
class Plan:
    """The choice for each masked weight, by name, with the machine it was measured on. ``print(plan)`` is a table."""

    choices: Mapping[str, Choice]
    device: str
    threads: int

    def __getitem__(self, name: str) -> Choice:
        return self.choices[name]

    def __len__(self) -> int:
        return len(self.choices)

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "device": self.device,
            "threads": self.threads,
            "weights": {name: choice.to_dict() for name, choice in self.choices.items()},
        }

    def check(self, net: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Raise ``ValueError`` unless this plan was made for these masks of this net."""
        if set(self.choices) != set(masks):
            different = sorted(set(self.choices) ^ set(masks))
            raise ValueError(f"the plan is for other weights: {', '.join(different)}; make one for these masks")
        for name, choice in self.choices.items():
            if choice.shape != tuple(net.get_parameter(name).shape):
                raise ValueError(
                    f"the plan is for another net: {name!r} has shape {choice.shape} in the plan and "
                    f"{tuple(net.get_parameter(name).shape)} in the net"
                )
            kept = int(masks[name].count_nonzero())
            if choice.kept != kept:
                raise ValueError(
                    f"the plan is for other masks: {name!r} keeps {choice.kept} entries in the plan and {kept} here"
                )
            if choice.mask != mask_hash(masks[name]):
                raise ValueError(f"the plan is for other masks: {name!r} keeps as many entries in the plan, but others")

    def __str__(self) -> str:
        head = ("weight", "shape", "kept", "runs as", "bytes", "dense bytes", "reason")
        rows = [head]
        for name, c in self.choices.items():
            shape = "×".join(map(str, c.shape))
            rows.append((name, shape, f"{c.density:.1%}", c.label, f"{c.nbytes:,}", f"{c.dense_nbytes:,}", c.reason))
        widths = [max(len(row[k]) for row in rows) for k in range(len(head) - 1)]
        lines = ["  ".join([*(f"{row[k]:<{w}}" for k, w in enumerate(widths)), row[-1]]) for row in rows]
        for name, c in self.choices.items():
            if c.fused:
                lines.append(f"{name}: {' and '.join(c.fused)} worked out in it")
            if c.contiguous:
                lines.append(f"{name}: its result is made contiguous, for the net takes a view of it that needs that")
            if c.unfused:
                lines.append(f"{name}: {'no more' if c.fused else 'nothing'} worked out in it: {c.unfused}")
        return "\n".join([*lines, f"measured on {self.device}, {self.threads} thread{'s' * (self.threads != 1)}"])

    __repr__ = __str__
