"""What may have been meant by a name that is not there."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["suggestion"]


def suggestion(name: str, known: Iterable[str]) -> str:
    """What may have been meant, else all there is.

    >>> suggestion("lenet", ["lenet_300_100", "vit"]), suggestion("x", ["lenet_300_100", "vit"])
    ('did you mean lenet_300_100?', 'they are lenet_300_100, vit')
    """
    known = list(known)
    near = [k for k in known if name and name.lower() in k.lower()] or get_close_matches(name, known, n=1)
    return f"did you mean {' or '.join(near)}?" if near else f"they are {', '.join(known)}"
