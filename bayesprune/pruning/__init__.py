"""What to prune, and when: saliencies, masks, schedules, and how many bits what stays can bear."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
