"""A net with a posterior over its weights, and the rules that say which method fits which weight."""

from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.network.rules import posteriors_of
from bayesprune.network.state import PosteriorState

__all__ = [
    "BayesianNet",
    "PosteriorState",
    "posteriors_of",
]
