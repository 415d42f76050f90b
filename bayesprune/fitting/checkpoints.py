"""Training checkpoints: written whole or not at all, and loaded or refused."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from bayesprune.network.bayesian_net import BayesianNet

__all__ = ["Loose", "load_checkpoint", "save_checkpoint"]


class Loose:
    """What a run depends on and no parameter, buffer or optimiser holds: it goes into the checkpoint too."""

    def __init__(self, bnet: BayesianNet, loader: Iterable[Any]) -> None:
        self.bnet = bnet
        owners = [loader, getattr(loader, "sampler", None)]
        found = [getattr(owner, "generator", None) for owner in owners]
        self.generators = [g for g in found if isinstance(g, torch.Generator)]

    def state_dict(self) -> dict[str, Any]:
        generators = [g.get_state() for g in self.generators]
        return {"uses": dict(self.bnet._uses), "sampled": list(self.bnet._sampled), "generators": generators}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.bnet._uses, self.bnet._sampled = dict(state["uses"]), tuple(state["sampled"])
        for generator, value in zip(self.generators, state["generators"], strict=True):
            generator.set_state(value)


def _beside(folder: Path) -> tuple[Path, Path]:
    """Where the next checkpoint is written, and where the last one waits while it is replaced."""
    fresh, stale = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    return fresh, stale


def save_checkpoint(accelerator: Accelerator, folder: Path) -> None:
    """Replace ``folder`` by a whole new checkpoint, or leave it as it was."""
    fresh, stale = _beside(folder)
    if accelerator.is_main_process:
        for leftover in (fresh, stale):
            shutil.rmtree(leftover, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(fresh))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if folder.exists():
            folder.rename(stale)
        fresh.rename(folder)
        shutil.rmtree(stale, ignore_errors=True)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, folder: Path) -> bool:
    """Load the checkpoint in ``folder`` if there is one, and say whether there was."""
    fresh, stale = _beside(folder)
    if accelerator.is_main_process and stale.exists() and fresh.exists() and not folder.exists():
        fresh.rename(folder)  # killed between the two renames of `save_checkpoint`: the new one is whole
    accelerator.wait_for_everyone()
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        accelerator.load_state(str(folder))
    except Exception as error:  # whatever is wrong with a file, it is the same to the user
        raise ValueError(
            f"{str(folder)!r} is no checkpoint of this run, or a damaged one: give another folder, or remove it to "
            f"start afresh ({type(error).__name__}: {error})"
        ) from error
    return True
