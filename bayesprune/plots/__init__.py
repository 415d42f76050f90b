"""Pictures: an ``ax`` in, the ``ax`` out, as in ArviZ; without one a new figure is made through pyplot.

Those of several panels take ``axes`` and return an array of them. ``ax.figure.savefig(…)`` writes a file.
Colours are told apart by every kind of colour vision (Okabe & Ito 2008; cividis).
"""

from bayesprune.plots.calibration import class_errors, reliability
from bayesprune.plots.curves import shift, sparsity_curve, training_curves
from bayesprune.plots.latency import layer_latency, model_latency
from bayesprune.plots.masks import kept_fractions, mask_image, receptive_field
from bayesprune.plots.signal import snr_against_mean, snr_histograms
from bayesprune.plots.uncertainty import entropies, predictive_band, uncertainty_parts

__all__ = [
    "class_errors",
    "entropies",
    "kept_fractions",
    "layer_latency",
    "mask_image",
    "model_latency",
    "predictive_band",
    "receptive_field",
    "reliability",
    "shift",
    "snr_against_mean",
    "snr_histograms",
    "sparsity_curve",
    "training_curves",
    "uncertainty_parts",
]
