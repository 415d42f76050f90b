"""Plans: per weight, the format and kernel that were fastest on the user's shapes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
