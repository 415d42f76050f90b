"""Sparse posteriors, a file each."""

from bayesprune.methods.base import Method, Posterior
from bayesprune.methods.gaussian import Gaussian, TwoScales
from bayesprune.methods.sparse_vd import SparseVD

__all__ = ["Gaussian", "Method", "Posterior", "SparseVD", "TwoScales"]
