"""Runs: recipes, run folders, and what carries them out for the command line."""

from bayesprune.runs.folder import RunFolder
from bayesprune.runs.recipe import Recipe

__all__ = [
    "Recipe",
    "RunFolder",
]
