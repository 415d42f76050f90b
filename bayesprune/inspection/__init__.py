"""All that needs ArviZ: draws in its groups, and leave-one-out scores."""

from bayesprune.inspection.cross_validation import UnreliableLOOWarning, khat, loo
from bayesprune.inspection.inference_data import LeftOutWarning, to_inference_data

__all__ = [
    "LeftOutWarning",
    "UnreliableLOOWarning",
    "khat",
    "loo",
    "to_inference_data",
]
