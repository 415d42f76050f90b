"""The pictures that commands write, and the curve that one of them left."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from bayesprune._files import replace
from bayesprune.network import BayesianNet
from bayesprune.plots import snr_histograms
from bayesprune.reporting import Curve
from bayesprune.runs.folder import RunFolder

__all__ = ["swept", "write_curve", "write_snr"]


def swept(folder: RunFolder) -> Curve | None:
    """The curve of a sweep of this run alone; ``None`` where there is none. Raises ``ValueError`` where the file is
    damaged."""
    if not folder.sweep_file.exists():
        return None
    found = folder.read_json(folder.sweep_file)
    try:
        return Curve.from_dict(found) if len(found.get("runs", ())) == 1 else None
    except ValueError as error:
        raise ValueError(f"{folder.sweep_file} is damaged: {error}") from error


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
