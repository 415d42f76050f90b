"""Layers with packed weights: linear, convolution, attention, recurrent."""

from bayesprune.sparse.layers.attention import SparseAttention
from bayesprune.sparse.layers.conv import SparseConv2d
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.layers.recurrent import SparseRNN

__all__ = [
    "SparseAttention",
    "SparseConv2d",
    "SparseLinear",
    "SparseRNN",
]
