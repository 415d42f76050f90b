"""Sparsifying variational posteriors over weights, one file each."""

from bayesprune.methods.ard import ARD
from bayesprune.methods.base import Method, Posterior
from bayesprune.methods.deterministic import Deterministic
from bayesprune.methods.gaussian import Gaussian, TwoScales
from bayesprune.methods.group_vd import GroupVD
from bayesprune.methods.hard_concrete import HardConcrete
from bayesprune.methods.horseshoe import Horseshoe
from bayesprune.methods.laplace import Laplace
from bayesprune.methods.normal_jeffreys import NormalJeffreys
from bayesprune.methods.sparse_vd import SparseVD
from bayesprune.methods.spike_slab import SpikeSlab
from bayesprune.methods.structured_dropout import StructuredDropout

__all__ = [
    "ARD",
    "Deterministic",
    "Gaussian",
    "GroupVD",
    "HardConcrete",
    "Horseshoe",
    "Laplace",
    "Method",
    "NormalJeffreys",
    "Posterior",
    "SparseVD",
    "SpikeSlab",
    "StructuredDropout",
    "TwoScales",
]
