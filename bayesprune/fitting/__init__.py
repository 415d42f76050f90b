"""Training: the loop, the evidence lower bound, likelihoods, history and checkpoints."""

from bayesprune.fitting.devices import check_device
from bayesprune.fitting.door import fit
from bayesprune.fitting.elbo import MeanFieldELBO
from bayesprune.fitting.history import Epoch, History
from bayesprune.fitting.likelihoods import SupervisedModel, classify, regress
from bayesprune.fitting.observations import CategoricalObservation, NormalObservation, Observation

__all__ = [
    "CategoricalObservation",
    "Epoch",
    "History",
    "MeanFieldELBO",
    "NormalObservation",
    "Observation",
    "SupervisedModel",
    "check_device",
    "classify",
    "fit",
    "regress",
]
