"""Text of files that a stranger may have made: shown on a terminal, and never sent to it."""

import re

__all__ = ["visible"]

# C0 and C1 controls but for tab and line feed; what turns the direction of writing; lone surrogates
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with control characters written out, so that a terminal does nothing but show it.

    >>> visible("fc1\x1b[2J")
    'fc1\\x1b[2J'
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)
