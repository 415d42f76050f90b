"""Which errors are refusals of ours, and which of them are known."""

import traceback
from pathlib import Path

import bayesprune

__all__ = ["KNOWN", "cause"]

ROOT = str(Path(bayesprune.__file__).parent)
_SEVERAL = "the net must return one tensor here"

KNOWN: dict[str, dict[str, str]] = {
    "predict": {
        **dict.fromkeys(("RNN", "GRU", "LSTM", "LSTM, projected", "LSTMCell", "MultiheadAttention"), _SEVERAL),
        **dict.fromkeys(("MultiheadAttention, without weights", "FPN", "RetinaNet", "VAE", "RealNVP"), _SEVERAL),
        "several heads": _SEVERAL,
    },
}
"""By door and net, the cause that is told. What ``compact`` refuses is told in the summary alone."""


def cause(error: Exception) -> str:
    """What an error of ours says. Raises the error itself where it is not one that bayesprune raises on purpose."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if not (last.filename.startswith(ROOT) and (last.line or "").startswith("raise ")) or not str(error):
        raise error
    return str(error)
