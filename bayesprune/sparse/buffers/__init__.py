"""What lies below formats and kernels: rows of plain buffers, torch's own layouts, how a convolution walks."""

from bayesprune.sparse.buffers.geometry import Geometry, conv_weight
from bayesprune.sparse.buffers.rows import rows_of
from bayesprune.sparse.buffers.torch_layouts import sparse_bsr, sparse_csr

__all__ = ["Geometry", "conv_weight", "rows_of", "sparse_bsr", "sparse_csr"]
