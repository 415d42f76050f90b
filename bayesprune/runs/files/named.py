"""Data of one's own by the name of a file or folder: ``KIND:PATH[,option=value…]``, with no code to write."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from bayesprune.data import Splits
from bayesprune.runs.suggestions import suggestion

__all__ = ["Named", "as_number", "divided", "labelled", "part_of", "parts", "read_name"]

_VAL, _TEST = 0.1, 0.2  # fractions of the rows


@dataclass(frozen=True)
class Named:
    """A path and its options, as the command line names them.

    Attributes:
        kind: what kind of data it is.
        path: the file or folder.
        options: the texts that were given, by name.
    """

    kind: str
    path: Path
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"

    def option(self, name: str, default: Any, read: Callable[[str], Any]) -> Any:
        """An option as ``read`` reads it. Raises ``ValueError`` that names it."""
        if name not in self.options:
            return default
        try:
            return read(self.options[name])
        except ValueError as error:
            raise ValueError(f"data {str(self)!r}: {name}={self.options[name]}: {error}") from None

    def wrong(self, what: str) -> ValueError:
        """An error about this data."""
        return ValueError(f"data {str(self)!r}: {what}")


def read_name(text: str, known: Mapping[str, tuple[str, ...]]) -> Named | None:
    """``"csv:houses.csv,target=price"`` as its parts; ``None`` where it is of no kind in ``known``: kind → options.

    What stands between commas at the end and has an ``=`` is an option; commas before that are the path's.

    Raises:
        ValueError: an option that the kind does not have; no path.

    >>> named = read_name("csv:a,b.csv,target=price", {"csv": ("target",)})
    >>> str(named), named.options
    ('csv:a,b.csv', {'target': 'price'})
    """
    kind, colon, rest = text.partition(":")
    kind = kind.strip()
    if not colon or kind not in known:
        return None
    options: dict[str, str] = {}
    while "," in rest and "=" in rest.rpartition(",")[2]:
        rest, _, last = rest.rpartition(",")
        name, _, value = last.partition("=")
        name = name.strip()
        if name not in known[kind]:
            raise ValueError(f"data {text!r}: {kind}: has no option {name!r}; {suggestion(name, known[kind])}")
        if name in options:
            raise ValueError(f"data {text!r}: {name} is given twice")
        options[name] = value.strip()
    if not rest.strip():
        raise ValueError(f"data {text!r}: say which, as in {kind}:path")
    return Named(kind, Path(rest.strip()).expanduser(), options)


def as_number(text: str) -> int:
    """A whole number ≥ 0."""
    if not text.isdecimal():
        raise ValueError("a whole number ≥ 0 is expected")
    return int(text)


def _as_fraction(text: str) -> float:
    """A fraction in [0, 1), as 0.2 or 20%."""
    found = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    if not 0 <= found < 1:
        raise ValueError("a fraction in [0, 1) is expected")
    return found


def parts(named: Named, count: int, labels: NDArray | None = None) -> tuple[NDArray, NDArray, NDArray]:
    """Rows of training, validation and test, by the options ``val``, ``test`` and ``seed``; every class alike."""
    val, test = named.option("val", _VAL, _as_fraction), named.option("test", _TEST, _as_fraction)
    if val + test >= 1:
        raise named.wrong(f"val={val:g} and test={test:g} leave nothing to train on")
    generator = np.random.default_rng(named.option("seed", 0, as_number))
    groups = [np.arange(count)] if labels is None else [np.flatnonzero(labels == label) for label in np.unique(labels)]
    cut: tuple[list[NDArray], ...] = ([], [], [])
    for rows in groups:
        order = generator.permutation(rows)
        held, tested = round(val * len(rows)), round(test * len(rows))
        for into, some in zip(cut, np.split(order, [len(rows) - held - tested, len(rows) - tested]), strict=True):
            into.append(some)
    training, validation, testing = (np.sort(np.concatenate(some)) for some in cut)
    if not len(training) or (test and not len(testing)):
        raise named.wrong(f"{count} rows are too few to be split into training, validation and test")
    return training, validation, testing


def part_of(x: NDArray, y: NDArray, rows: NDArray) -> TensorDataset:
    """Some rows as a dataset."""
    return TensorDataset(torch.from_numpy(x[rows]), torch.from_numpy(y[rows]))


def divided(named: Named, x: NDArray, y: NDArray, classes: tuple[str, ...] = ()) -> Splits:
    """Training, validation and test of one table of rows."""
    rows = parts(named, len(x), None if y.dtype.kind == "f" else y)
    train, val, test = (part_of(x, y, some) for some in rows)
    return Splits(train, val, test, classes)


def labelled(named: Named, y: NDArray) -> NDArray:
    """Targets as torch takes them: whole numbers are classes, int64 from 0; real ones float32, a column at least.

    Raises:
        ValueError: classes that do not count from 0; targets of another kind, or that are no finite numbers.
    """
    if y.dtype.kind in "iub":
        y = y.astype(np.int64)
        if y.size and int(y.min()) < 0:
            raise named.wrong(f"whole numbers are classes, which count from 0; there is {int(y.min())}")
        return y
    if y.dtype.kind != "f":
        raise named.wrong(f"targets must be numbers, got {y.dtype}")
    if not np.isfinite(y).all():
        raise named.wrong(f"{int((~np.isfinite(y)).sum())} targets are NaN or infinite")
    return y.astype(np.float32).reshape(len(y), -1) if y.ndim < 2 else y.astype(np.float32)
