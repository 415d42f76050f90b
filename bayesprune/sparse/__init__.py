"""The sparse half: packed weights that run faster and files that are smaller. It knows neither Pyro nor posteriors."""

from bayesprune.sparse.exporting import export
from bayesprune.sparse.formats import BSR, CSR, Dense, Format, SemiStructured, SparseWeight
from bayesprune.sparse.layers.linear import SparseLinear
from bayesprune.sparse.planning.plan import Choice, Plan
from bayesprune.sparse.planning.planner import plan
from bayesprune.sparse.saving.coding import Codebook
from bayesprune.sparse.saving.compressed import Compressed, compressed
from bayesprune.sparse.saving.file import FileError, load, nbytes, save

__all__ = [
    "BSR",
    "CSR",
    "Choice",
    "Codebook",
    "Compressed",
    "Dense",
    "FileError",
    "Format",
    "Plan",
    "SemiStructured",
    "SparseLinear",
    "SparseWeight",
    "compressed",
    "export",
    "load",
    "nbytes",
    "plan",
    "save",
]
