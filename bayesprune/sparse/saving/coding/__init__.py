"""Compressed coding: shared levels, gaps in place of indices, and a range coder.

Han, Mao & Dally 2016, *Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and
Huffman Coding*, arXiv:1510.00149.
"""

from bayesprune.sparse.saving.coding.codebook import Codebook, codebook_of
from bayesprune.sparse.saving.coding.container import Streams, is_compressed, longest_text, pack, unpack
from bayesprune.sparse.saving.coding.streams import CodedNet, DecodedNet, code, decode

__all__ = [
    "Codebook",
    "CodedNet",
    "DecodedNet",
    "Streams",
    "code",
    "codebook_of",
    "decode",
    "is_compressed",
    "longest_text",
    "pack",
    "unpack",
]
