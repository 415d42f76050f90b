"""Inspection with ArviZ: posterior draws as inference data, and leave-one-out scores."""

from bayesprune.inspection.cross_validation import UnreliableLOOWarning, khat, loo
from bayesprune.inspection.inference_data import LeftOutWarning, to_inference_data

__all__ = [
    "LeftOutWarning",
    "UnreliableLOOWarning",
    "khat",
    "loo",
    "to_inference_data",
]
