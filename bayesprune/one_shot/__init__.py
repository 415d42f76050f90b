"""One-shot pruning of a trained net: its Laplace posterior, and the mean of what stays given what went."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
