"""The report: sparsity, speed and accuracy of a pruned net beside its rivals, with warnings."""

from bayesprune._extras import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
