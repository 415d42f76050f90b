"""Run folders: recipe, checkpoints, posterior, masks, exported model and measurements on disk."""

import json
import math
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import filelock
import msgspec
import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bayesprune._files import is_temporary, make_folder, replace
from bayesprune.runs.recipe import Recipe

__all__ = ["Fit", "RunFolder", "to_json"]

T = TypeVar("T")


def to_json(data: Any) -> str:
    """Plain data as JSON for any reader: what is no finite number becomes null.

    >>> to_json([1.5, float("nan")])
    '[\\n  1.5,\\n  null\\n]\\n'
    """
    return json.dumps(_finite(data), indent=2, allow_nan=False) + "\n"


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


class FitEpoch(msgspec.Struct, frozen=True):
    """An epoch's figures; ``None`` where one was no finite number."""

    epoch: int
    nll: float | None
    kl: float | None
    kept: float | None


class FitHistory(msgspec.Struct, frozen=True):
    """A fit's epochs, one at least."""

    epochs: Annotated[list[FitEpoch], msgspec.Meta(min_length=1)]


class Fit(msgspec.Struct, frozen=True):
    """What a fit found out, as ``fit.json`` holds it."""

    classifies: bool
    size: Annotated[int, msgspec.Meta(ge=1)]
    uses: dict[str, int]
    sampled: list[str]
    history: FitHistory
    unpadded: list[str] = []


class _Progress(msgspec.Struct, frozen=True):
    stage: str
    epoch: int
    epochs: int


class RunFolder:
    """What lies in a run folder, by name. Each file is replaced only by a whole new one.

    Args:
        path: the folder.
        trust: whether code that is named in it, and was not on the command line, may be run.

    Attributes:
        recipe_file: ``recipe.toml``, written first.
        checkpoints: of the fit while it is under way; the folder goes when the posterior is there.
        dense_file: the dense net that posteriors started at.
        control_file: that net trained on as long as the posterior, unless the recipe wants none.
        posterior_file: the fitted posterior; a run that has it is finished.
        fit_file: the fit's history, and what else it found out.
        masks_file: what is kept, and by which choice.
        model_file, plan_file: the exported model, and how each weight of it runs.
        report_file, sweep_file, curve_file: what was measured.
    """

    def __init__(self, path: Path, trust: bool = False) -> None:
        self.path, self.trust = path, trust
        self.recipe_file = path / "recipe.toml"
        self.checkpoints = path / "checkpoints"
        self.progress_file = path / "progress.json"
        self.dense_file = path / "dense.safetensors"
        self.control_file = path / "control.safetensors"
        self.posterior_file = path / "posterior.safetensors"
        self.fit_file = path / "fit.json"
        self.masks_file = path / "masks.safetensors"
        self.model_file = path / "model.safetensors"
        self.plan_file = path / "plan.json"
        self.report_file = path / "report.json"
        self.sweep_file = path / "sweep.json"
        self.curve_file = path / "sweep.png"

    def __str__(self) -> str:
        return f"{self.path}/"

    @property
    def finished(self) -> bool:
        """Whether the fit came to its end."""
        return self.posterior_file.exists()

    def recipe(self) -> Recipe | None:
        """The recipe of the run; ``None`` where there is none."""
        return Recipe.read(self.recipe_file) if self.recipe_file.exists() else None

    def check_run(self, named: Collection[str] = ()) -> Recipe:
        """The recipe of a finished run, all of whose code may be run.

        Args:
            named: fields of the recipe that the command line says itself, and that are not run from the folder.

        Raises:
            FileNotFoundError: there is no such folder, or no run in it.
            ValueError: the run is not finished, or names code and the folder is not to be trusted.
        """
        if self.path.is_file():
            raise NotADirectoryError(f"{str(self.path)!r} is a file: name the folder of a run")
        if not self.path.is_dir():
            raise FileNotFoundError(
                f"there is no folder {str(self.path)!r}; bayesprune fit --out {self.path} makes one"
            )
        recipe = self.recipe()
        if recipe is None:
            raise FileNotFoundError(f"{self} holds no run: it lacks recipe.toml, which bayesprune fit writes")
        if not self.finished:
            raise ValueError(f"the run in {self} is not finished ({self.reached()}): {self.go_on()} goes on with it")
        if not self.trust:
            recipe.check_trusted(str(self), named)
        return recipe

    def masks(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What is kept, and the choice that said so. Raises ``FileNotFoundError`` where nothing was chosen yet."""
        if not self.masks_file.exists():
            raise FileNotFoundError(f"{self} has no masks yet: {self.command('masks', '--keep 0.05')}")
        return self.read_tensors(self.masks_file)

    def control(self) -> dict[str, Tensor] | None:
        """The dense net trained on as long as the posterior; ``None`` where the recipe wanted none."""
        return self.read_tensors(self.control_file)[0] if self.control_file.exists() else None

    def stale(self) -> list[str]:
        """The files that were made from other masks than those which are there now."""
        made = [
            f for f in (self.model_file, self.plan_file, self.report_file) if f.exists() and self.masks_file.exists()
        ]
        return [file.name for file in made if file.stat().st_mtime_ns < self.masks_file.stat().st_mtime_ns]

    def go_on(self) -> str:
        """What to type to go on with a run that is not finished."""
        return self.command("fit --out")

    def command(self, verb: str, options: str = "") -> str:
        """What to type next; a run of code of one's own is trusted, since it was fitted here."""
        recipe = self.recipe()
        trust = "--trust" if recipe is not None and recipe.own_code() else ""
        return " ".join(filter(None, ("bayesprune", verb, str(self.path), options, trust)))

    def reached(self) -> str:
        """How far an unfinished run came, in words."""
        if not self.progress_file.exists():
            return "no epoch is done"
        done = self._typed(self.progress_file, _Progress)
        return f"{done.stage}, epoch {done.epoch} of {done.epochs}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing here. The system frees the lock of a process that was killed.

        Raises:
            BlockingIOError: another process is at work here.
        """
        make_folder(self.path)
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise BlockingIOError(
                f"another bayesprune is at work in {self}: wait for it, or name another folder"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def checkpoint(self, stage: str) -> Path:
        """Where the checkpoint of a stage of the fit goes."""
        make_folder(self.checkpoints)
        return self.checkpoints / stage.replace(" ", "-")

    def finish(self) -> None:
        """Drop what only an unfinished run needs."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        self.progress_file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what a run wrote, and nothing else."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        files = [value for value in vars(self).values() if isinstance(value, Path)]
        for file in reversed(files):  # the recipe last
            if file not in (self.path, self.checkpoints):
                file.unlink(missing_ok=True)

    def holds_something_else(self) -> bool:
        """Whether the folder holds files, and no run. What a killed fit left half written is nothing."""
        if not self.path.is_dir() or self.recipe_file.exists():
            return False
        return any(file.name != ".lock" and not is_temporary(file) for file in self.path.iterdir())

    def fit(self) -> "Fit":
        """What the fit found out. Raises ``ValueError`` where the file is damaged."""
        return self._typed(self.fit_file, Fit)

    def _typed(self, file: Path, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(file.read_bytes(), type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{file} is damaged: {error}") from error

    def write_json(self, file: Path, data: Mapping[str, Any]) -> None:
        """Write plain data."""
        replace(file, lambda fresh: fresh.write_text(to_json(data), encoding="utf-8"))

    def read_json(self, file: Path) -> dict[str, Any]:
        """Plain data again. Raises ``ValueError`` where the file is damaged."""
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is damaged: {error}") from error

    def write_tensors(self, file: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> None:
        """Write tensors by name, and plain data about them."""
        whole = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
        written = safetensors.torch.save(whole, {"bayesprune": json.dumps(about or {})})
        if not file.exists() or file.read_bytes() != written:  # what depends on it stays up to date
            replace(file, lambda fresh: fresh.write_bytes(written))

    def read_tensors(self, file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What :meth:`write_tensors` wrote. Raises ``ValueError`` where the file is damaged."""
        try:
            with safe_open(file, "pt") as opened:
                about = json.loads((opened.metadata() or {}).get("bayesprune", "{}"))
                if not isinstance(about, dict):
                    raise ValueError("what is said of its tensors is no table")
                return {name: opened.get_tensor(name) for name in opened.keys()}, about  # noqa: SIM118
        except (SafetensorError, ValueError, RecursionError) as error:
            raise ValueError(f"{file} is damaged: {error}") from error
