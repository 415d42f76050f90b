"""Training checkpoints: written whole or not at all, and loaded or refused."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from bayesprune.fitting.generators import generators_of

__all__ = ["Generators", "load_checkpoint", "save_checkpoint"]


class Generators:
    """The generators of a loader, for Accelerate's checkpoints."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.generators = generators_of(loader)

    def state_dict(self) -> dict[str, Any]:
        return {where: generator.get_state() for where, generator in self.generators.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for where, generator in self.generators.items():
            generator.set_state(state[where])


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
