"""The report: what was kept and how it runs, what that is worth beside the rivals, and what to beware of."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
