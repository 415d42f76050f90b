"""Plain buffers of packed weights, and the geometry of convolutions; below formats and kernels."""

from bayesprune.sparse.buffers.geometry import Geometry
from bayesprune.sparse.buffers.operands import Operands
from bayesprune.sparse.buffers.unpack import conv_weight, dense_of, places_of, rows_of, values_at

__all__ = [
    "Geometry",
    "Operands",
    "conv_weight",
    "dense_of",
    "places_of",
    "rows_of",
    "values_at",
]
