"""Distributions that Pyro lacks, each with its KL divergence beside it."""

from bayesprune.distributions.lazy_normal import LazyNormal
from bayesprune.distributions.log_uniform import LogUniform
from bayesprune.distributions.scale_mixture import ScaleMixture

__all__ = ["LazyNormal", "LogUniform", "ScaleMixture"]
