"""Checkpoints of a fit: whole or not at all, checked when they are read, and none of them runs code.

A folder of the user's holds one of ours, ``bayesprune-checkpoints``, and that one a folder for each of the last two
epochs: ``run.safetensors`` (net, optimiser, schedule, history), ``rank-N.safetensors`` (random states of a process) and
``manifest.json`` (whose run it is, and the checksum of every file).
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bayesprune._files import make_folder, sync
from bayesprune.fitting.fingerprint import differences
from bayesprune.fitting.plain import from_bytes, to_bytes

__all__ = ["CheckpointWarning", "Checkpoints"]

_OURS = "bayesprune-checkpoints"
_KEPT = 2


class CheckpointWarning(UserWarning):
    """The last checkpoint is damaged, and the one before it is used."""


class Checkpoints:
    """The checkpoints of one run in a folder.

    Args:
        folder: the user's; made if it is not there. Nothing in it but our own folder is touched.
        fingerprint: what the run is, in plain values: see :mod:`bayesprune.fitting.fingerprint`.
        rank, wait: this process's number, and a barrier for all processes.

    Raises:
        ValueError: ``folder`` is a file, or holds a checkpoint of a version that wrote pickles.
    """

    def __init__(
        self, folder: Path, fingerprint: Mapping[str, Any], rank: int = 0, wait: Callable[[], None] = lambda: None
    ) -> None:
        self.folder, self.rank, self.wait = folder.resolve(), rank, wait
        self.fingerprint: dict[str, Any] = json.loads(json.dumps(fingerprint))  # a tuple is read back as a list
        self.given = folder
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(self._refusal("it is a file"))
        if (self.folder / "custom_checkpoint_0.pkl").exists():
            raise ValueError(
                self._refusal("it was written by an earlier version, as pickles, which can run code and are not read")
            )
        self.ours = self.folder / _OURS

    def save(self, epoch: int, run: Any, own: Any) -> None:
        """Write the state after ``epoch`` epochs, then forget all but the last two.

        Args:
            run: plain values and tensors that all processes share; the first process's are written.
            own: those of this process.

        Raises:
            OSError: it cannot be written; the former checkpoints stand.
            TypeError: a state that is neither plain values nor tensors.
        """
        fresh = self.ours / ".new"
        parts = {f"rank-{self.rank}.safetensors": own} | ({"run.safetensors": run} if self.rank == 0 else {})
        written = {name: to_bytes(part) for name, part in parts.items()}
        try:
            if self.rank == 0:
                shutil.rmtree(fresh, ignore_errors=True)
                make_folder(self.ours)
                fresh.mkdir()
            self.wait()
            for name, data in written.items():
                _write(fresh / name, data)
            self.wait()
            if self.rank == 0:
                self._publish(fresh, epoch)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise OSError(
                error.errno, f"no checkpoint can be written ({error.strerror}); those before it stand", str(self.given)
            ) from error
        self.wait()

    def load(self) -> tuple[int, Any, Any] | None:
        """Epochs done, the shared state and this process's, of the last whole checkpoint; ``None`` without any.

        Raises:
            ValueError: no checkpoint in the folder is whole, or they are of another run.

        Warns:
            CheckpointWarning: the last one is damaged, and the one before it is taken.
        """
        found = self._epochs()
        damage = ""
        for epoch in reversed(found):
            try:
                manifest, parts = self._read(self.ours / f"epoch-{epoch}")
            except (OSError, ValueError, KeyError, TypeError) as error:
                damage = damage or f"epoch-{epoch}: {type(error).__name__}: {error}"
                continue
            if apart := differences(manifest["fingerprint"], self.fingerprint):
                raise ValueError(self._refusal(f"it is of another run: {'; '.join(apart)}"))
            if damage:
                warnings.warn(
                    f"the last checkpoint in {str(self.given)!r} is damaged ({damage}); going on from epoch {epoch}",
                    CheckpointWarning,
                    stacklevel=6,
                )
            return epoch, parts["run.safetensors"], parts[f"rank-{self.rank}.safetensors"]
        if found:
            raise ValueError(self._refusal(damage))
        return None

    def refuse(self, why: str) -> ValueError:
        """The error that says what is wrong with what was found."""
        return ValueError(self._refusal(why))

    def _publish(self, fresh: Path, epoch: int) -> None:
        sums = {file.name: _digest(file.read_bytes()) for file in sorted(fresh.iterdir())}
        body = {"epoch": epoch, "fingerprint": self.fingerprint, "files": sums}
        _write(fresh / "manifest.json", json.dumps({"sha256": _digest_of(body), **body}, indent=1).encode())
        sync(fresh)
        place = self.ours / f"epoch-{epoch}"
        if place.exists():
            shutil.rmtree(self.ours / ".old", ignore_errors=True)
            place.rename(self.ours / ".old")
        fresh.rename(place)
        for folder in (self.ours, self.folder, self.folder.parent):
            sync(folder)
        shutil.rmtree(self.ours / ".old", ignore_errors=True)
        for old in self._epochs()[:-_KEPT]:
            shutil.rmtree(self.ours / f"epoch-{old}", ignore_errors=True)

    def _epochs(self) -> list[int]:
        if not self.ours.is_dir():
            return []
        words = [p.name.partition("epoch-")[2] for p in self.ours.iterdir() if p.is_dir()]
        return sorted(int(word) for word in words if word.isascii() and word.isdigit())

    def _read(self, place: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        manifest = json.loads((place / "manifest.json").read_bytes())
        body = {key: manifest[key] for key in ("epoch", "fingerprint", "files")}
        if manifest["sha256"] != _digest_of(body):
            raise ValueError("manifest.json is damaged")
        wanted = ("run.safetensors", f"rank-{self.rank}.safetensors")
        parts = {}
        for name, digest in manifest["files"].items():
            data = (place / name).read_bytes()
            if _digest(data) != digest:
                raise ValueError(f"{name} is damaged")
            if name in wanted:
                parts[name] = from_bytes(data)
        return manifest, parts

    def _refusal(self, why: str) -> str:
        return (
            f"{str(self.given)!r} is no checkpoint of this run, or a damaged one: {why}. Give another folder, or "
            "remove it to start afresh"
        )


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_of(body: Any) -> str:
    return _digest(json.dumps(body, sort_keys=True).encode())
