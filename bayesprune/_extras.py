"""Optional packages: which extra of the install brings each, and the error where one is missing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lazy_loader

__all__ = ["EXTRA_OF", "MissingExtraError", "door", "needed_by"]

EXTRA_OF = {  # the name that is imported → the extra that brings it
    "PIL": "plots",
    "accelerate": "fit",
    "arviz": "arviz",
    "constriction": "compress",
    "datasets": "hub",
    "filelock": "cli",
    "huggingface_hub": "hub",
    "jinja2": "fit",
    "matplotlib": "plots",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "pandas": "fit",
    "pooch": "fit",
    "pyro": "fit",
    "rich": "fit",
    "scipy": "fit",
    "sklearn": "fit",
    "tomli_w": "cli",
    "triton": "gpu",
    "typer": "cli",
    "xarray": "arviz",
}


class MissingExtraError(ImportError):
    """An optional package is not installed."""


@contextmanager
def needed_by(what: str) -> Iterator[None]:
    """Where an optional package is not installed, say in one line which extra brings it.

    >>> with needed_by("bayesprune.fit"):
    ...     raise ModuleNotFoundError("No module named 'pyro'", name="pyro")
    Traceback (most recent call last):
    bayesprune._extras.MissingExtraError: bayesprune.fit needs the package pyro: pip install "bayesprune[fit]"
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        extra = EXTRA_OF.get(package)
        if extra is None or not isinstance(error, (ModuleNotFoundError, MissingExtraError)):
            raise  # what is broken is not what is missing
        told = f'{what} needs the package {package}: pip install "bayesprune[{extra}]"'
        raise MissingExtraError(told, name=error.name) from None


def door(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """A package's ``__getattr__``, ``__dir__`` and ``__all__`` by its stub: names are imported when first used.

    Raises:
        ImportError: from the first use of a name, where it needs a package that is not installed.
    """
    lazily, listed, names = lazy_loader.attach_stub(package, file)

    def get(name: str) -> Any:
        with needed_by(f"{package}.{name}"):
            return lazily(name)

    return get, listed, names
