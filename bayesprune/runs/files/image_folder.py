"""``images:FOLDER``: a folder a class, with pictures in it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayesprune._extras import needed_by
from bayesprune.data import Splits
from bayesprune.runs.files.named import Named, as_number, divided, part_of

__all__ = ["OPTIONS", "read_images"]

OPTIONS = ("size", "mode", "val", "test", "seed")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_MODES = {"grey": "L", "rgb": "RGB"}


@needed_by("data images:")
def read_images(named: Named) -> Splits:
    """The pictures in ``FOLDER/CLASS/``, split here, or in ``FOLDER/train/CLASS/`` and ``FOLDER/test/CLASS/``.

    ``x`` is float32 ``(N, channels, rows, columns)`` in [0, 1]; ``size`` makes all of so many rows and columns,
    ``mode`` is ``rgb`` (the default) or ``grey``. Classes are in the order of their names. Where parts are folders, the
    validation part is ``val``, or there is none.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: fewer than two classes, or one without pictures; pictures of different sizes and no ``size``; one
            that cannot be read; a class of the test that the training part does not have.
    """
    if not named.path.is_dir():
        raise FileNotFoundError(f"there is no folder {str(named.path)!r} (data {str(named)!r})")
    folders = {folder.name: folder for folder in _folders(named.path)}
    if {"train", "test"} <= folders.keys():
        classes = tuple(folder.name for folder in _folders(folders["train"]))
        return _by_parts(named, folders, classes)
    classes = tuple(folders)
    x, y = _pictures(named, named.path, classes)
    return divided(named, x, y, classes)


def _by_parts(named: Named, folders: dict[str, Path], classes: tuple[str, ...]) -> Splits:
    split = [name for name in ("val", "test", "seed") if name in named.options]
    if split:
        raise named.wrong(f"{', '.join(split)}: it is split already, so there is nothing to say of that")
    train = _pictures(named, folders["train"], classes)
    test = _pictures(named, folders["test"], classes)
    val = _pictures(named, folders["val"], classes) if "val" in folders else (train[0][:0], train[1][:0])
    if train[0].shape[1:] != test[0].shape[1:] or train[0].shape[1:] != val[0].shape[1:]:
        raise named.wrong("the pictures of its parts are of different sizes: say size=32")
    made = [part_of(x, y, np.arange(len(x))) for x, y in (train, val, test)]
    return Splits(made[0], made[1], made[2], classes)


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _pictures(named: Named, folder: Path, classes: tuple[str, ...]) -> tuple[NDArray, NDArray]:
    """The pictures of a folder of classes, in the order of their names, and the class of each."""
    found = [inside.name for inside in _folders(folder)]
    if len(classes) < 2 or not set(found) <= set(classes):
        expected = f"those of the training part, {', '.join(classes)}" if len(classes) > 1 else "two or more folders"
        raise named.wrong(f"{folder} holds the classes {', '.join(found) or 'none'}; expected {expected}")
    size = named.option("size", 0, as_number)
    mode = _MODES.get(named.options.get("mode", "rgb"))
    if mode is None:
        raise named.wrong(f"mode={named.options['mode']}: it is rgb or grey")
    x: list[NDArray] = []
    y: list[int] = []
    first = None
    for label, name in enumerate(classes):
        files = sorted(f for f in (folder / name).glob("**/*") if f.suffix.lower() in _SUFFIXES)
        if not files and name in found:
            raise named.wrong(f"{folder / name} holds no pictures ({', '.join(_SUFFIXES)})")
        for file in files:
            x.append(_picture(named, file, mode, size))
            y.append(label)
            first = first or file
            if x[-1].shape != x[0].shape:
                (_, *one), (_, *other) = x[0].shape, x[-1].shape
                told = f"{first} is of {one[0]}×{one[1]} pixels and {file} of {other[0]}×{other[1]}"
                raise named.wrong(f"{told}: say size=32, for pictures of 32×32")
    return np.stack(x), np.array(y, dtype=np.int64)


def _picture(named: Named, file: Path, mode: str, size: int) -> NDArray:
    from PIL import Image

    try:
        with Image.open(file) as image:
            read = image.convert(mode)
            if size:
                read = read.resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(read, dtype=np.uint8)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise named.wrong(f"{file} cannot be read as a picture ({error})") from error
    planes = pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
    return np.divide(planes, 255, dtype=np.float32)
