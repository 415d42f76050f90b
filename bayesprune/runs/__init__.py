"""What the command line stands on: recipes, run folders, and what carries them out."""

from bayesprune.runs.folder import RunFolder
from bayesprune.runs.recipe import Recipe

__all__ = [
    "Recipe",
    "RunFolder",
]
