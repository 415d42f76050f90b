"""Runs: recipes, run folders, and what carries them out for the command line."""

from bayesprune._extras import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
