"""What the command line stands on: recipes, run folders, and what carries them out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
