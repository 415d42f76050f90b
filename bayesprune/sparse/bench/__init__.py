"""Benchmarks of sparse against dense: single products and whole nets."""

from bayesprune._extras import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
