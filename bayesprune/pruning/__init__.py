"""Pruning: saliencies, masks, schedules, and bit widths of what stays."""

from bayesprune._extras import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
