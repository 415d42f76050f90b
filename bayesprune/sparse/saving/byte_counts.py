"""Byte counts of a net, weight by weight: dense, packed, and in a compressed file."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bayesprune.sparse.layers.composite import parts_of
from bayesprune.sparse.saving.compressed import Compressed
from bayesprune.sparse.saving.description import named_tensors

__all__ = ["ELSE", "WHOLE", "ByteCount", "byte_counts"]

ELSE, WHOLE = "all else", "the whole net"

_LEAVES = "values", "crow", "col", "scale"


@dataclass(frozen=True)
class ByteCount:
    """The bytes of one weight, or of all.

    Attributes:
        name: the weight's.
        dense: in float32, zeros and all.
        packed: as it runs, indices included.
        compressed: in a compressed file; ``None`` where that was not made.
    """

    name: str
    dense: int
    packed: int
    compressed: int | None

    @property
    def ratio(self) -> float | None:
        """How many times the bytes of the compressed file dense float32 takes; ``None`` where there is no such file."""
        return None if self.compressed is None else self.dense / max(self.compressed, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**vars(self), "ratio": self.ratio}


def byte_counts(
    dense: nn.Module, names: Iterable[str], sparse: nn.Module, file: Compressed | None
) -> tuple[ByteCount, ...]:
    """A count for each of the weights ``names``, one for all else (the manifest included), and one for the whole net.

    Args:
        dense: the net that was exported.
        names: of its parameters.
        sparse: what :func:`bayesprune.export` made of it.
        file: what :func:`bayesprune.compressed` made of that, if it was made.
    """
    own, was = (_tensors(net) for net in (sparse, dense))
    counts = []
    for name in names:
        now = [at for part in parts_of(sparse, name) for at in _names(part)]
        packed = sum(own[at].nbytes for at in now if at in own)
        coded = None
        if file is not None:
            coded = round(sum(file.tensors.get(at, 0.0) + file.tensors.get(f"{at}/col", 0.0) for at in now))
        counts.append(ByteCount(name, 4 * was[name].numel(), packed, coded))
    dense_bytes = 4 * sum(x.numel() for x in {id(x): x for x in was.values()}.values())
    packed_bytes = sum(x.nbytes for x in {id(x): x for x in own.values()}.values())
    whole = ByteCount(WHOLE, dense_bytes, packed_bytes, None if file is None else file.nbytes)
    rest = ByteCount(
        ELSE,
        whole.dense - sum(c.dense for c in counts),
        whole.packed - sum(c.packed for c in counts),
        None if whole.compressed is None else whole.compressed - sum(c.compressed or 0 for c in counts),
    )
    return (*counts, rest, whole)


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all their names."""
    return {name: x for _, name, x in named_tensors(net)}


def _names(part: str) -> tuple[str, ...]:
    """Under what names the parameter ``part`` may lie: its own, or those of a packed layer."""
    path, _, leaf = part.rpartition(".")
    prefix = f"{path}." if path else ""
    return (part, *(prefix + own for own in _LEAVES)) if leaf == "weight" else (part,)
