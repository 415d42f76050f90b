"""Plain buffers of packed weights, and the geometry of convolutions; below formats and kernels."""

from bayesprune.sparse.buffers.geometry import Geometry, conv_weight, plainly_strided
from bayesprune.sparse.buffers.rows import rows_of
from bayesprune.sparse.buffers.torch_layouts import sparse_bsr, sparse_csr

__all__ = ["Geometry", "conv_weight", "plainly_strided", "rows_of", "sparse_bsr", "sparse_csr"]
