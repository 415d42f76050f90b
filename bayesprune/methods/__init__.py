"""Sparse posteriors, a file each."""

from bayesprune.methods.base import Method, Posterior
from bayesprune.methods.sparse_vd import SparseVD

__all__ = ["Method", "Posterior", "SparseVD"]
