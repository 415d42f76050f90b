"""Training: the loop, the evidence lower bound, likelihoods, history and checkpoints."""

from bayesprune._extras import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
