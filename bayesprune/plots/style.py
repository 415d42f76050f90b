"""Shared plotting style: colours, and the axes to draw on."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

__all__ = ["BLACK", "BLUE", "COLOURS", "GREY", "MARKERS", "ORANGE", "VERMILION", "axes_for", "panels_for"]

# Okabe & Ito 2008, in an order in which neighbours differ in lightness too
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
BLACK, GREY = "#000000", "#999999"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION)
MARKERS = "osD^vP"


def axes_for(ax: Axes | None, width: float = 5.6, height: float = 3.6) -> Axes:
    """``ax``, or one of a new figure; without the frame's upper and right sides."""
    return panels_for(ax, 1, width, height)[0]


def panels_for(axes: Any, n: int, width: float, height: float) -> np.ndarray:
    """``n`` axes of the user's, or of a new figure with panels of this size in inches, side by side.

    Raises:
        ValueError: there are not ``n``.
    """
    if axes is None:
        import matplotlib.pyplot as plt  # only here: it picks a backend

        _, axes = plt.subplots(1, n, figsize=(width * n, height), layout="constrained", squeeze=False)
    found = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
    if len(found) != n:
        raise ValueError(f"this picture has {n} panel{'s' * (n != 1)} and needs as many axes, got {len(found)}")
    for ax in found:
        ax.spines[["top", "right"]].set_visible(False)
    return found
