"""Experiment trackers (TensorBoard, Weights & Biases, MLflow, …) by name, through Accelerate."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType

__all__ = ["finish", "note", "tracked_by"]


def tracked_by(log_with: Any, log_dir: str | Path) -> dict[str, Any]:
    """Arguments for an ``Accelerator`` that logs to ``log_with``.

    Raises:
        ValueError: a tracker that nobody knows, or whose package is not installed.
    """
    if log_with is None:
        return {}
    wanted = list(log_with) if isinstance(log_with, (list, tuple)) else [log_with]
    there = {str(name) for name in get_available_trackers()}
    known = [str(name) for name in LoggerType.list() if str(name) != "all"]
    for tracker in wanted:
        if isinstance(tracker, GeneralTracker):
            continue
        if not isinstance(tracker, str) or tracker not in known:
            raise ValueError(f"log_with names trackers, {', '.join(known)}, or is one of Accelerate's; got {tracker!r}")
        if tracker not in there:
            raise ValueError(f"log_with={tracker!r}: its package is not installed here; pip install {tracker}")
    return {"log_with": wanted, "project_dir": str(log_dir)}


def note(accelerator: Accelerator, figures: dict[str, Any], epoch: int) -> None:
    """Log an epoch's figures."""
    if accelerator.trackers:
        accelerator.log(figures, step=epoch)


def finish(accelerator: Accelerator) -> None:
    """Have the trackers write what they hold."""
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers = []
