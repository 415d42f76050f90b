"""``npz:FILE``: arrays that numpy saved, ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test``, ``y_test``."""

import zipfile

import numpy as np
from numpy.typing import NDArray

from bayesprune.data import Splits
from bayesprune.runs.files.named import Named, divided, labelled, part_of

__all__ = ["OPTIONS", "read_npz"]

OPTIONS = ("val", "test", "seed")
_PARTS = ("train", "val", "test")


def read_npz(named: Named) -> Splits:
    """The arrays of a file of ``np.savez``: split here where they are ``x`` and ``y``, else as they are.

    ``x`` is float32, unsigned bytes become [0, 1], and other whole numbers stay such; ``y`` of whole numbers is
    classes, of real ones regression, as they are. Without ``x_val`` there is no validation part.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of numpy's, or lacks arrays; x and y are of different lengths; Python objects in it.
    """
    if not named.path.is_file():
        raise FileNotFoundError(f"there is no file {str(named.path)!r} (data {str(named)!r})")
    try:
        with np.load(named.path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
    except (ValueError, OSError, AttributeError, zipfile.BadZipFile, EOFError) as error:
        raise named.wrong(f"holds no arrays of numpy ({error}): write them with np.savez(path, x=…, y=…)") from error
    if {"x", "y"} <= held.keys():
        x, y = _pair(named, held, "x", "y")
        return divided(named, x, y)
    if not {"x_train", "y_train", "x_test", "y_test"} <= held.keys():
        raise named.wrong(
            f"holds {', '.join(held) or 'nothing'}: expected x and y, or x_train, y_train, x_test and y_test (and "
            "x_val and y_val)"
        )
    if named.options:
        raise named.wrong(f"{', '.join(named.options)}: it is split already, so there is nothing to say of that")
    found = {}
    for part in _PARTS:
        names = f"x_{part}", f"y_{part}"
        if names[0] in held and names[1] in held:
            found[part] = _pair(named, held, *names)
        else:
            x, y = found["train"]
            found[part] = x[:0], y[:0]
    train, val, test = (part_of(x, y, np.arange(len(x))) for x, y in found.values())
    return Splits(train, val, test)


def _pair(named: Named, held: dict[str, NDArray], *names: str) -> tuple[NDArray, NDArray]:
    x, y = (held[name] for name in names)
    if not x.ndim or not y.ndim or len(x) != len(y) or not len(x):
        raise named.wrong(f"{names[0]} of shape {x.shape} and {names[1]} of shape {y.shape} do not go together")
    if x.dtype.kind not in "iufb":
        raise named.wrong(f"{names[0]} must hold numbers, got {x.dtype}")
    if x.dtype == np.uint8:
        x = np.divide(x, 255, dtype=np.float32)
    elif x.dtype.kind in "fb":
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise named.wrong(f"{int((~np.isfinite(x)).sum())} numbers of {names[0]} are NaN or infinite")
    else:
        x = x.astype(np.int64)
    return x, labelled(named, y)
