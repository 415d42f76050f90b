"""The report: sparsity, speed and accuracy of a pruned net beside its rivals, with warnings."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
