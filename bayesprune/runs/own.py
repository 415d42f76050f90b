"""Code of the user's own, named as ``my_module:attribute``: found, and its faults told in one line."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from bayesprune.runs.suggestions import suggestion

__all__ = ["attribute", "module_of", "telling"]


def module_of(text: str) -> str | None:
    """The module of the user's that a net or data are named from; ``None`` where they are ours.

    >>> module_of("my.nets:make(3)"), module_of("mlp(8, (50,), 1)")
    ('my.nets', None)
    """
    path, colon, _ = text.partition(":")
    return path.strip() if colon and all(part.isidentifier() for part in path.strip().split(".")) else None


def attribute(module: str, name: str, what: str) -> Any:
    """What a module of the user's calls so; the module is looked for in this folder and on ``PYTHONPATH``, and run.

    Raises:
        ValueError: there is no such module or attribute, or the module's code fails.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    with telling(f"importing {module!r}"):
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise ValueError(
                f"there is no module {module!r}: run in the folder that holds it, or put that on PYTHONPATH"
            ) from None
    if not hasattr(found, name):
        public = [n for n in vars(found) if not n.startswith("_")]
        raise ValueError(f"module {module!r} has no {what} {name!r}; {suggestion(name, public)}")
    return getattr(found, name)


@contextmanager
def telling(doing: str) -> Iterator[None]:
    """Turn what goes wrong in code that is not ours into one line that says where."""
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        raise ValueError(f"{doing}: {type(error).__name__}: {error} ({where})") from error
