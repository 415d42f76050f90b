"""What the room hands on, loaded when it is first used: the one list of its names, for types and at run time."""

from .bit_widths import bit_widths as bit_widths
from .callback import Callback as Callback
from .callback import Run as Run
from .masking import BudgetWarning as BudgetWarning
from .masking import EmptyLayerWarning as EmptyLayerWarning
from .masking import Scope as Scope
from .masking import check_keep as check_keep
from .masking import check_masks as check_masks
from .masking import masks as masks
from .masking import select as select
from .saliency import Saliency as Saliency
from .saliency import lamp as lamp
from .saliency import magnitude as magnitude
from .saliency import random as random
from .saliency import snr as snr
from .schedules import Cubic as Cubic
