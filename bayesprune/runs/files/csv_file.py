"""``csv:FILE``: a table with a heading, one column of which is the target."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bayesprune._extras import needed_by
from bayesprune.data import Splits
from bayesprune.runs.files.named import Named, part_of, parts
from bayesprune.runs.suggestions import suggestion

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OPTIONS", "read_csv"]

OPTIONS = ("target", "task", "sep", "val", "test", "seed")
_MOST_LEVELS = 50  # words of a column; more are names or texts, which no column each can stand for
_MOST_CLASSES = 20  # whole numbers of a target; more are counts or amounts


@needed_by("data csv:")
def read_csv(named: Named) -> Splits:
    """The rows of a CSV file with a heading, split into training, validation and test.

    The target is the column ``target``, the last by default. Words are classes, and so are whole numbers of which there
    are twenty or fewer; other numbers are regression, in units of the training part's standard deviation; ``task`` says
    ``classes`` or ``numbers`` where that is not meant. Columns of numbers are standardised by the training part; one of
    words becomes a column of 0 and 1 a word.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read; there is no such column; cells are empty; a column is neither numbers nor few
            words; a class has too few rows to be split.
    """
    import pandas as pd

    if not named.path.is_file():
        raise FileNotFoundError(f"there is no file {str(named.path)!r} (data {str(named)!r})")
    try:
        table = pd.read_csv(named.path, sep=named.options.get("sep", ","), skipinitialspace=True)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise named.wrong(f"cannot be read as a table: {str(error).strip().splitlines()[0]}") from error
    columns = [str(name) for name in table.columns]
    table.columns = columns
    target = named.options.get("target", columns[-1])
    if target not in columns:
        raise named.wrong(f"there is no column {target!r}; {suggestion(target, columns)}")
    if len(columns) < 2 or not len(table):
        raise named.wrong(f"needs rows, a target and one more column; has {len(table)} rows of {', '.join(columns)}")
    empty = {name: int(count) for name, count in table.isna().sum().items() if count}
    if empty:
        told = ", ".join(f"{count} of {name!r}" for name, count in empty.items())
        raise named.wrong(f"cells are empty ({told}): fill them or leave those rows or columns out")
    classes, y = _targets(named, table[target])
    x = np.concatenate([_columns(named, table[name]) for name in columns if name != target], axis=1)
    rows = parts(named, len(table), y if classes else None)
    train = rows[0]
    mean, scale = x[train].mean(0), x[train].std(0)
    scale[scale == 0] = 1.0
    x = ((x - mean) / scale).astype(np.float32)
    y_mean, y_scale = 0.0, 1.0
    if not classes:
        y_mean, y_scale = float(y[train].mean()), float(y[train].std())
        if not y_scale:
            raise named.wrong(f"the target {target!r} is {y_mean:g} in every row of the training part")
        y = ((y - y_mean) / y_scale).astype(np.float32)[:, None]
    made = [part_of(x, y, some) for some in rows]
    return Splits(made[0], made[1], made[2], classes, y_mean, y_scale, tuple(mean.tolist()), tuple(scale.tolist()))


def _targets(named: Named, column: "pd.Series") -> tuple[tuple[str, ...], NDArray]:
    """The classes' names and the class of each row; no names and the numbers where it is regression."""
    values = column.to_numpy()
    task = named.options.get("task")
    if task not in (None, "classes", "numbers"):
        raise named.wrong(f"task={task}: it is classes or numbers")
    is_number = values.dtype.kind in "iuf"
    if task is None:
        few = values.dtype.kind in "iu" and len(np.unique(values)) <= _MOST_CLASSES
        task = "classes" if not is_number or few else "numbers"
    if task == "numbers":
        if not is_number:
            raise named.wrong(f"task=numbers: the target {column.name!r} holds words, such as {values[0]!r}")
        if not np.isfinite(values).all():
            raise named.wrong(f"the target {column.name!r} holds infinite numbers")
        return (), values.astype(np.float64)
    names, y = np.unique(values if is_number else values.astype(str), return_inverse=True)
    counts = np.bincount(y)
    if len(names) < 2 or counts.min() < 3:
        least = names[counts.argmin()]
        raise named.wrong(
            f"the target {column.name!r} has {len(names)} classes, of which {str(least)!r} has {counts.min()} rows: it "
            "takes two classes of three rows or more (task=numbers for regression)"
        )
    return tuple(map(str, names)), y.astype(np.int64)


def _columns(named: Named, column: "pd.Series") -> NDArray:
    """A column of the file as columns of numbers, float64."""
    values = column.to_numpy()
    if values.dtype.kind in "iufb":
        if not np.isfinite(values).all():
            raise named.wrong(f"the column {column.name!r} holds infinite numbers")
        return values.astype(np.float64)[:, None]
    words, index = np.unique(values.astype(str), return_inverse=True)
    if len(words) > _MOST_LEVELS:
        raise named.wrong(
            f"the column {column.name!r} holds {len(words):,} different words, such as {words[0]!r}: leave it out, or "
            "make numbers of it"
        )
    return np.eye(len(words))[index]
