"""``Plan``: per weight, the chosen format and kernel, and the reason."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesprune.sparse.formats import Format

__all__ = ["Choice", "Plan"]


@dataclass(frozen=True)
class Choice:
    """What becomes of one masked weight, and why.

    Args:
        name: the parameter's name.
        shape: its shape.
        kept: how many of its entries the mask keeps.
        format: how it will run; ``Dense()`` for a weight that stays masked dense in its own module.
        kernel: what multiplies; empty for ``Dense()``.
        reason: one sentence.
        tokens: rows of the layer's input on the example; 0 where nothing was timed.
        seconds: the median time of one call of each candidate; the key is ``"dense"`` or ``"BSR(16, 1) gather"``.
        nbytes: bytes of the values and indices as it will run.
        dense_nbytes: bytes of the dense weight.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    format: Format
    kernel: str
    reason: str
    tokens: int
    seconds: Mapping[str, float]
    nbytes: int
    dense_nbytes: int

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

    def __str__(self) -> str:
        head = ("weight", "shape", "kept", "runs as", "bytes", "dense bytes", "reason")
        rows = [head]
        for name, c in self.choices.items():
            shape = "×".join(map(str, c.shape))
            rows.append((name, shape, f"{c.density:.1%}", c.label, f"{c.nbytes:,}", f"{c.dense_nbytes:,}", c.reason))
        widths = [max(len(row[k]) for row in rows) for k in range(len(head) - 1)]
        lines = ["  ".join([*(f"{row[k]:<{w}}" for k, w in enumerate(widths)), row[-1]]) for row in rows]
        return "\n".join([*lines, f"measured on {self.device}, {self.threads} thread{'s' * (self.threads != 1)}"])

    __repr__ = __str__
