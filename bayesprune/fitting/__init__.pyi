"""What the room hands on, loaded when it is first used: the one list of its names, for types and at run time."""

from .devices import check_device as check_device
from .door import fit as fit
from .elbo import MeanFieldELBO as MeanFieldELBO
from .history import Epoch as Epoch
from .history import History as History
from .likelihoods import SupervisedModel as SupervisedModel
from .likelihoods import classify as classify
from .likelihoods import regress as regress
from .observations import CategoricalObservation as CategoricalObservation
from .observations import NormalObservation as NormalObservation
from .observations import Observation as Observation
