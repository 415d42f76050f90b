"""Messages of the library in the words of the command line: options in place of arguments."""

import re

__all__ = ["in_words"]

_WORDS = (
    (r"fit\(…, prune=Cubic\(keep=…\)\)", "bayesprune fit --prune 'Cubic(keep=…)'"),
    (r"(?<![\w(])keep=(?=[\d.])", "--keep "),
    (r"\bkeep is the fraction of entries to keep, in \(0, 1\], got\b", "--keep is a fraction in (0, 1], or 5%; got"),
    (r"(?<![\w(])snr=(?=[\d.])", "--snr "),
    (r"\bscope='?(layer|global)'?", r"--scope \1"),
    (r"\bscope is one of \('global', 'layer'\), got\b", "--scope is global or layer; got"),
    (r"formats\[(['\"])(.*?)\1\]", r"--format '\2=…'"),
    (r"\bnet=…", "--net …"),
)


def in_words(message: str) -> str:
    """What the library says, as the command line says it.

    >>> in_words("nothing of 'fc1' is kept: keep more, or give it a budget of its own with scope='layer'")
    "nothing of 'fc1' is kept: keep more, or give it a budget of its own with --scope layer"
    >>> in_words("keep=0.01 leaves 1.00% of the weights; prune while fitting, fit(…, prune=Cubic(keep=…))")
    "--keep 0.01 leaves 1.00% of the weights; prune while fitting, bayesprune fit --prune 'Cubic(keep=…)'"
    """
    for pattern, words in _WORDS:
        message = re.sub(pattern, words, message)
    return message
