"""The pictures that commands write."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from bayesprune._files import replace
from bayesprune.network import BayesianNet
from bayesprune.plots import snr_histograms
from bayesprune.reporting import Curve

__all__ = ["write_curve", "write_snr"]


def write_curve(file: Path, curve: Curve) -> None:
    """A sweep's curve of error over what is kept, as PNG."""
    picture = Figure(figsize=(6, 4), layout="constrained")
    curve.plot(ax=picture.subplots())
    _write(file, picture)


def write_snr(file: Path, bnet: BayesianNet, masks: Mapping[str, Tensor]) -> None:
    """A histogram of the signal-to-noise ratios of each weight that was pruned, as PNG."""
    picture = Figure(figsize=(3.4 * len(masks), 3.2), layout="constrained")
    snr_histograms(bnet, masks, axes=picture.subplots(1, len(masks)))
    _write(file, picture)


def _write(file: Path, picture: Figure) -> None:
    replace(file, lambda fresh: picture.savefig(fresh, dpi=150))
