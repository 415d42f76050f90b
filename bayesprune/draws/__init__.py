"""Lazy Gaussian draws that carry their moments, and Pyro param sites without a global store."""

from bayesprune.draws.gaussian import Estimator, GaussianDraw, SecondUseError, plain, sampling
from bayesprune.draws.sites import param_site

__all__ = [
    "Estimator",
    "GaussianDraw",
    "SecondUseError",
    "param_site",
    "plain",
    "sampling",
]
