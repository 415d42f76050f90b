"""Likelihoods: how targets are distributed given a net's output, a family a file."""

from bayesprune.likelihoods.base import Likelihood
from bayesprune.likelihoods.bernoulli import Bernoulli
from bayesprune.likelihoods.categorical import Categorical
from bayesprune.likelihoods.gamma import Gamma
from bayesprune.likelihoods.heteroscedastic import Heteroscedastic
from bayesprune.likelihoods.log_normal import LogNormal
from bayesprune.likelihoods.negative_binomial import NegativeBinomial
from bayesprune.likelihoods.normal import Normal
from bayesprune.likelihoods.numbers import Numbers
from bayesprune.likelihoods.own import Own, likelihood
from bayesprune.likelihoods.poisson import Poisson
from bayesprune.likelihoods.several import Several

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gamma",
    "Heteroscedastic",
    "Likelihood",
    "LogNormal",
    "NegativeBinomial",
    "Normal",
    "Numbers",
    "Own",
    "Poisson",
    "Several",
    "likelihood",
]
