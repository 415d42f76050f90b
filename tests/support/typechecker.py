"""beartype, with an int taken where a float is asked for, as PEP 484 has it."""

from typing import Any

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(thing: Any) -> Any:
    """``thing`` with its types checked, but for nested functions, which would be compiled anew at each call."""
    return thing if "<locals>" in thing.__qualname__ else _check(thing)
