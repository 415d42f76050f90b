"""Sparse indices coded as gaps between kept entries.

Han, Mao & Dally 2016, *Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and
Huffman Coding*, arXiv:1510.00149, section 2.
"""

import numpy as np
from jaxtyping import Int32, Int64

from bayesprune.sparse.saving.coding.entropy import PART, Reader, Writer

__all__ = ["read_indices", "read_places", "write_indices"]

_MOST = 2**53  # entries of a grid

Index = Int64[np.ndarray, "_"]
Places = Int64[np.ndarray, "_"] | Int32[np.ndarray, "_"]


def _gaps(places: Index) -> Index:
    return np.diff(places, prepend=-1) - 1


def write_indices(writer: Writer, cols: int, crow: Index, col: Index) -> None:
    """The gaps between values in reading order, row by row or column by column, whichever takes fewer bits.

    A gap reaches over the end of a row, so that nothing else tells where rows end.

    Raises:
        ValueError: the columns of a row do not rise.
    """
    rows = len(crow) - 1
    row = np.repeat(np.arange(rows), np.diff(crow))
    across, down = _gaps(row * cols + col), _gaps(np.sort(col * rows + row))
    if (across < 0).any():
        raise ValueError("the columns of a packed weight do not rise within a row: export it again")
    tried = Writer(), Writer()
    for trial, gaps in zip(tried, (across, down), strict=True):
        trial.sizes(gaps)
    turned = tried[1].bits < tried[0].bits
    writer.number(int(turned), 1)
    writer.sizes(down if turned else across)


def read_places(reader: Reader, rows: int, cols: int, count: int) -> Places:
    """Where ``count`` values lie in a grid, counted in reading order, ascending.

    Raises:
        ValueError: what was read does not lie in the grid.
    """
    if rows * cols > _MOST:
        raise ValueError(f"a grid of {rows} × {cols} is too large")
    turned = reader.number(1)
    places = reader.sizes(count, rows * cols)
    if int(places.sum(dtype=np.int64)) + count > rows * cols or int(places.max(initial=0)) > rows * cols:
        raise ValueError(f"a value lies outside the grid of {rows} × {cols}")
    places += 1
    np.cumsum(places, out=places)
    places -= 1
    if turned:
        for start in range(0, count, PART):
            part = places[start : start + PART]
            col, row = np.divmod(part, max(rows, 1))
            part[:] = row * cols + col
        places.sort()
    return places


def read_indices(reader: Reader, rows: int, cols: int, count: int) -> tuple[Places, Places]:
    """``crow`` and ``col`` of ``count`` values in a grid.

    Raises:
        ValueError: what was read does not lie in the grid.
    """
    places = read_places(reader, rows, cols, count)
    crow = np.empty(rows + 1, dtype=np.int32 if count < 2**31 else np.int64)
    for start in range(0, rows + 1, PART):
        begins = np.arange(start, min(start + PART, rows + 1), dtype=np.int64) * cols
        crow[start : start + PART] = np.searchsorted(places, begins)
    for start in range(0, count, PART):
        places[start : start + PART] %= max(cols, 1)
    return crow, places
