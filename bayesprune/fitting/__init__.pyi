"""What the room hands on, loaded when it is first used: the one list of its names, for types and at run time."""

from .devices import check_device as check_device
from .door import fit as fit
from .elbo import ELBO as ELBO
from .elbo import MeanFieldELBO as MeanFieldELBO
from .history import Epoch as Epoch
from .history import History as History
from .scales import ScaleWarning as ScaleWarning
from .supervised import SupervisedModel as SupervisedModel
from .supervised import classify as classify
from .supervised import regress as regress
from .supervised import supervise as supervise
from .validation import EarlyStopping as EarlyStopping
