"""The sparse half: packed weights that run faster and files that are smaller. It knows neither Pyro nor posteriors."""

from bayesprune.sparse.choices import Choice, Plan
from bayesprune.sparse.coding import Codebook
from bayesprune.sparse.compressed import Compressed, compressed
from bayesprune.sparse.convert import export
from bayesprune.sparse.file import FileError, load, nbytes, save
from bayesprune.sparse.formats import BSR, CSR, Dense, Format, SemiStructured, SparseWeight
from bayesprune.sparse.linear import SparseLinear
from bayesprune.sparse.plan import plan

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
