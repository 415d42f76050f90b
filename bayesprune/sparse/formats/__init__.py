"""Storage formats of masked weights, one file each."""

from collections.abc import Mapping
from types import MappingProxyType

from bayesprune.sparse.formats.base import Format, SparseWeight
from bayesprune.sparse.formats.bsr import BSR
from bayesprune.sparse.formats.csr import CSR
from bayesprune.sparse.formats.dense import Dense
from bayesprune.sparse.formats.semi_structured import SemiStructured

__all__ = ["BSR", "CSR", "FORMATS", "Dense", "Format", "SemiStructured", "SparseWeight"]

FORMATS: Mapping[str, type[Format]] = MappingProxyType({f.__name__: f for f in (Dense, CSR, BSR, SemiStructured)})
