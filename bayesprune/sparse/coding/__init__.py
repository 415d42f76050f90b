"""Nets in few bytes: shared levels, gaps in place of indices, and a range coder (Han, Mao & Dally 2016)."""

from bayesprune.sparse.coding.codebook import Codebook, codebook_of
from bayesprune.sparse.coding.container import Streams, is_compressed, pack, unpack
from bayesprune.sparse.coding.streams import CodedNet, DecodedNet, code, decode
from bayesprune.sparse.coding.variances import variances_of

__all__ = [
    "Codebook",
    "CodedNet",
    "DecodedNet",
    "Streams",
    "code",
    "codebook_of",
    "decode",
    "is_compressed",
    "pack",
    "unpack",
    "variances_of",
]
