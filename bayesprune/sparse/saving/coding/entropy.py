"""Entropy coding: an adaptive range coder, its models sent in the same stream."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, UInt8
from numpy.typing import NDArray

from bayesprune._extras import needed_by

__all__ = ["PART", "Reader", "Writer"]

_DIGIT = 16  # bits of a number that are coded at once
_CLASSES = 128  # of sizes below 2⁵³
_FINEST = 127  # the finest step of a model's scale; 2^63.5

_LEAST = 2.0**-24  # the coder's least probability
PART = 2**17  # numbers that are read at once

Symbols = Int64[np.ndarray, " symbols"]
Index = Int32[np.ndarray, " symbols"] | Int64[np.ndarray, " symbols"]
Few = UInt8[np.ndarray, " symbols"] | Int32[np.ndarray, " symbols"]


@cache
@needed_by("a compressed file")
def _constriction() -> Any:
    """constriction's stream codes, which only those who make or read a compressed file need."""
    from constriction import stream

    return stream


def _few(size: int) -> type[np.uint8] | type[np.int32]:
    """What holds 0 … ``size − 1`` in the fewest bytes."""
    return np.uint8 if size <= 2**8 else np.int32


def _shares(steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probabilities told by steps of half an octave: 0 where the step is 0. The same to the bit on every machine."""
    whole = np.ldexp(np.where(steps % 2 == 1, 5.0, 7.0), (np.maximum(steps, 1) - 1) // 2)  # 7/5 ≈ √2
    whole[steps == 0] = 0.0
    return whole / whole.sum()


def _classes(values: Symbols) -> tuple[Symbols, Symbols]:
    """The class of each number, 0, 1, 2, 3, 4–5, 6–7, 8–11, 12–15 …, and how many bits tell it within its class."""
    octave = np.maximum(np.frexp(values.astype(np.float64))[1] - 1, 0).astype(np.int64)  # ⌊log₂⌋
    widths = np.maximum(octave - 1, 0)
    return np.where(values < 2, values, 2 * octave + (values >> widths) % 2), widths


def _steps(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(counts == 0, 0, 1 + np.round(2 * np.log2(np.maximum(counts, 1)))).astype(np.int64)


class Writer:
    """Codes numbers one after another.

    Attributes:
        bits: how many all numbers so far take, by their models.

    >>> writer = Writer()
    >>> writer.number(1234, 10_000)
    >>> writer.symbols(np.array([0, 2, 0, 0, 0, 0]), 3)
    >>> reader = Reader(writer.data())
    >>> reader.number(10_000), reader.symbols(6, 3).tolist()
    (1234, [0, 2, 0, 0, 0, 0])
    """

    def __init__(self) -> None:
        self._coder, self._model = _constriction().queue.RangeEncoder(), _constriction().model
        self.bits = 0.0

    def data(self) -> bytes:
        """All that was written, in whole words of 32 bits."""
        return self._coder.get_compressed().astype("<u4").tobytes()

    def number(self, value: int, most: int) -> None:
        """One number in 0 … ``most``."""
        assert 0 <= value <= most
        for shift in reversed(range(0, max(most.bit_length(), 1), _DIGIT)):
            self.uniform(np.array([(value >> shift) % 2**_DIGIT]), min(most >> shift, 2**_DIGIT - 1) + 1)

    def uniform(self, values: Symbols, size: int) -> None:
        """Numbers in 0 … ``size − 1``, all as likely; ``size`` is at most 2¹⁶."""
        if size > 1 and len(values):
            self._coder.encode(values.astype(np.int32), self._model.Uniform(size))
            self.bits += len(values) * np.log2(size)

    def wide(self, values: Symbols, widths: Symbols) -> None:
        """Numbers of so many bits each, all as likely."""
        for shift in range(0, int(widths.max(initial=0)), _DIGIT):
            sizes = 2 ** np.clip(widths - shift, 0, _DIGIT)
            there = sizes > 1
            digits = (values[there] >> shift) % 2**_DIGIT
            self._coder.encode(digits.astype(np.int32), self._model.Uniform(), sizes[there].astype(np.int32))
            self.bits += float(np.log2(sizes).sum())

    def sizes(self, values: Symbols) -> None:
        """Numbers from 0 of which the small ones matter most: by size, two sizes an octave, and where within."""
        classes, widths = _classes(values)
        self.symbols(classes, _CLASSES)
        self.wide(values & ((1 << widths) - 1), widths)

    def symbols(self, values: Symbols, alphabet: int) -> None:
        """Numbers in 0 … ``alphabet − 1``, by how often each comes where that takes fewer bits; at most 2¹⁶."""
        if alphabet <= 1 or not len(values):
            return
        counts = np.bincount(values, minlength=alphabet)
        used = np.flatnonzero(counts)
        first, last = int(used[0]), int(used[-1])
        steps = _steps(counts[first : last + 1])
        finest = int(steps.max())
        shares = _shares(steps)
        kept = steps > 0
        body = -float(counts[first : last + 1][kept] @ np.log2(shares[kept]))
        model = 2 * np.log2(alphabet) + np.log2(_FINEST + 1) + len(steps) * np.log2(finest + 1)
        flat = model + body >= len(values) * np.log2(alphabet)
        self.number(int(flat), 1)
        if flat:
            self.uniform(values, alphabet)
            return
        self.number(first, alphabet - 1)
        self.number(last - first, alphabet - 1 - first)
        self.number(finest, _FINEST)
        if last > first:
            self.uniform(steps, finest + 1)
            self._coder.encode((values - first).astype(np.int32), self._model.Categorical(shares, perfect=False))
            self.bits += body


class Reader:
    """Reads what a :class:`Writer` wrote, asked for the same numbers in the same order.

    Attributes:
        bits: how many the numbers read so far took, by their models.

    Raises:
        ValueError: the data cannot have come from a writer that was given such numbers. Not all that is wrong is seen.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        if len(data) % 4:
            raise ValueError("the coded numbers are not in whole words")
        words = np.frombuffer(data, dtype="<u4").astype(np.uint32, copy=False)
        self.bits = 0.0
        self._coder, self._model = _constriction().queue.RangeDecoder(words), _constriction().model

    def number(self, most: int) -> int:
        """One number in 0 … ``most``."""
        value = 0
        for shift in reversed(range(0, max(most.bit_length(), 1), _DIGIT)):
            value = value << _DIGIT | int(self.uniform(1, min(most >> shift, 2**_DIGIT - 1) + 1)[0])
        if value > most:
            raise ValueError(f"a number is {value}, above {most}")
        return value

    def uniform(self, count: int, size: int) -> Few:
        found = np.zeros(count, dtype=_few(size))
        if size > 1:
            model = self._model.Uniform(size)
            for start in range(0, count, PART):
                part = found[start : start + PART]
                part[:] = self._read(model, len(part))
            self.bits += count * np.log2(size)
        return found

    def sizes(self, count: int, most: int) -> Index:
        """``count`` numbers, of which what is far above ``most`` is refused; a part at a time, in few bytes each."""
        classes = self.symbols(count, _CLASSES)
        largest = int(classes.max(initial=0))
        octave = max(largest // 2, 1)
        if largest >= 2 and (2 + largest % 2) << (octave - 1) > most:
            raise ValueError(f"a number is above {most}")
        found = np.empty(count, dtype=np.int32 if most < 2**30 else np.int64)
        parts = [slice(start, start + PART) for start in range(0, count, PART)]
        for part in parts:
            few = classes[part].astype(np.int64)
            found[part] = np.where(few < 2, few, (2 + few % 2) << np.maximum(few // 2 - 1, 0))
        for shift in range(0, octave - 1, _DIGIT):
            for part in parts:
                bits = np.clip(np.maximum(classes[part].astype(np.int64) // 2, 1) - 1 - shift, 0, _DIGIT)
                there = bits > 0
                if there.any():
                    digits = self._read(self._model.Uniform(), (1 << bits[there]).astype(np.int32)).astype(np.int64)
                    found[part][there] += (digits << shift).astype(found.dtype)
                    self.bits += float(bits.sum())
        return found

    def symbols(self, count: int, alphabet: int) -> Few:
        found = np.empty(count, dtype=_few(alphabet))
        for part, read in self.symbols_by_parts(count, alphabet):
            found[part] = read
        return found

    def symbols_by_parts(self, count: int, alphabet: int) -> Iterator[tuple[slice, Few]]:
        """:meth:`symbols`, a part at a time, and which: nothing else may be read before the last."""
        parts = [slice(start, min(start + PART, count)) for start in range(0, count, PART)]
        if alphabet <= 1 or not count:
            yield from ((part, np.zeros(part.stop - part.start, dtype=_few(alphabet))) for part in parts)
            return
        if self.number(1):
            yield from ((part, self.uniform(part.stop - part.start, alphabet)) for part in parts)
            return
        first = self.number(alphabet - 1)
        last = first + self.number(alphabet - 1 - first)
        finest = self.number(_FINEST)
        if last == first:
            yield from ((part, np.full(part.stop - part.start, first, dtype=_few(alphabet))) for part in parts)
            return
        steps = self.uniform(last - first + 1, finest + 1).astype(np.int64)
        if np.count_nonzero(steps) < 2:
            raise ValueError("a model knows fewer than two symbols")
        shares = _shares(steps)
        bits, model = np.log2(np.maximum(shares, _LEAST)), self._model.Categorical(shares, perfect=False)
        for part in parts:
            read = self._read(model, part.stop - part.start)
            self.bits -= float(np.bincount(read, minlength=len(shares)) @ bits)
            yield part, (read + first).astype(_few(alphabet))

    def _read(self, model: object, how_many: int | NDArray[np.int32]) -> NDArray[np.int32]:
        try:
            return self._coder.decode(model, how_many)
        except AssertionError as error:
            raise ValueError("the coded numbers are damaged") from error

    def check_end(self) -> None:
        """Raise ``ValueError`` unless all of the data has been read."""
        if not self._coder.maybe_exhausted():
            raise ValueError("the coded numbers go on past their end")
