"""Storage formats of masked weights, one file each."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType

from bayesprune.sparse.formats.base import Format, Operands, Packed, SparseWeight
from bayesprune.sparse.formats.bsr import BSR
from bayesprune.sparse.formats.csr import CSR
from bayesprune.sparse.formats.dense import Dense
from bayesprune.sparse.formats.semi_structured import SemiStructured

__all__ = [
    "BSR",
    "CSR",
    "FORMATS",
    "Dense",
    "Format",
    "Operands",
    "Packed",
    "SemiStructured",
    "SparseWeight",
    "format_of",
    "written",
]

FORMATS: Mapping[str, type[Format]] = MappingProxyType({f.__name__: f for f in (Dense, CSR, BSR, SemiStructured)})

_WRITTEN = re.compile(r"(\w+)(?:\((\d+(?:, \d+)*)?(?:, )?(?:bits=(\d+))?\))?")


def format_of(name: str, sizes: Iterable[object] = (), **settings: object) -> Format:
    """The format of that name in ``FORMATS``.

    Raises:
        ValueError: there is none, or it is not made of such sizes.

    >>> format_of("BSR", (16, 1)), format_of("CSR", bits=8)
    (BSR(16, 1), CSR(bits=8))
    """
    kind = FORMATS.get(name)
    if kind is None:
        raise ValueError(f"no format is called {name!r}; this version knows {', '.join(FORMATS)}")
    try:
        return kind(*sizes, **settings)
    except TypeError as error:
        raise ValueError(f"{name} is not made of {(*sizes, *settings.items())}: {error}") from error


@lru_cache(maxsize=1024)
def written(text: str) -> Format:
    """The format that is written so: the inverse of ``str``.

    Raises:
        ValueError: as :func:`format_of`, or it is no format's writing.

    >>> written(str(BSR(16, 1, bits=8)))
    BSR(16, 1, bits=8)
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError(f"a format is written as 'CSR' or 'BSR(16, 1, bits=8)', got {text!r}")
    name, sizes, bits = found.groups()
    return format_of(name, map(int, sizes.split(", ")) if sizes else (), **({"bits": int(bits)} if bits else {}))
