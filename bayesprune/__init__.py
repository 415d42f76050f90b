"""bayesprune: Bayesian sparsification for PyTorch.

Names are imported when they are first used, so that ``import bayesprune`` is light and a served sparse model needs no
Pyro.
"""

from bayesprune._extras import door

__getattr__, _, __all__ = door(__name__, __file__)
__version__ = "0.1.0"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
