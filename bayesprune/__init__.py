"""bayesprune: Bayesian sparsification for PyTorch.

Names are imported when they are first used, so that ``import bayesprune`` is light and a served sparse model needs no
Pyro.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "bayesprune.patterns": ("Block", "Channel", "Heads", "NM", "Pattern", "PatternError", "Unstructured"),
    "bayesprune.methods": (
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
    ),
    "bayesprune.network": ("BayesianNet",),
    "bayesprune.fitting": ("Epoch", "History", "classify", "fit", "regress"),
    "bayesprune.pruning": (
        *("BudgetWarning", "Callback", "Cubic", "EmptyLayerWarning", "Run"),
        *("bit_widths", "magnitude", "masks", "random", "snr"),
    ),
    "bayesprune.evaluation": ("Prediction", "predict"),
    "bayesprune.inspection": ("LeftOutWarning", "UnreliableLOOWarning", "khat", "loo", "to_inference_data"),
    "bayesprune.reporting": ("Report", "report"),
    "bayesprune.reporting.sweeping": ("Curve", "sweep"),  # matplotlib
    "bayesprune.sparse": (
        *("BSR", "CSR", "Codebook", "Compressed", "Dense", "FileError", "Plan", "SemiStructured"),
        *("compressed", "export", "load", "plan", "save"),
    ),
    "bayesprune.sparse.compact": ("Compacted", "compact"),
}
_NAMES = {name: home for home, names in _HOME.items() for name in names}
_MODULES = ("corruptions", "plots")  # looked into by name: bp.plots.reliability

__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"bayesprune.{name}")
    raise AttributeError(f"module 'bayesprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES, *_MODULES})
