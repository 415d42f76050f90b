"""Sparse posteriors, a file each."""

from bayesprune.methods.base import Method, Posterior
from bayesprune.methods.deterministic import Deterministic
from bayesprune.methods.gaussian import Gaussian, TwoScales
from bayesprune.methods.sparse_vd import SparseVD

__all__ = ["Deterministic", "Gaussian", "Method", "Posterior", "SparseVD", "TwoScales"]
