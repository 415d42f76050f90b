"""Pruning: saliencies, masks, schedules, and bit widths of what stays."""

from bayesprune.pruning.bit_widths import bit_widths
from bayesprune.pruning.callback import Callback, Run
from bayesprune.pruning.masking import BudgetWarning, EmptyLayerWarning, Scope, check_keep, check_masks, masks, select
from bayesprune.pruning.saliency import Saliency, magnitude, random, snr
from bayesprune.pruning.schedules import Cubic

__all__ = [
    "BudgetWarning",
    "Callback",
    "Cubic",
    "EmptyLayerWarning",
    "Run",
    "Saliency",
    "Scope",
    "bit_widths",
    "check_keep",
    "check_masks",
    "magnitude",
    "masks",
    "random",
    "select",
    "snr",
]
