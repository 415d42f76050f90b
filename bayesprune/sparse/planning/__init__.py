"""Plans: per weight, the format and kernel that were fastest on the user's shapes."""

from bayesprune._extras import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
