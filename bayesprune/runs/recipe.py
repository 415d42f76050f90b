"""Recipes: TOML files that hold all that a run depends on and repeat it."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from bayesprune._files import replace as replace_file
from bayesprune.draws.gaussian import Estimator
from bayesprune.methods import Method
from bayesprune.pruning import Callback
from bayesprune.runs.expressions import assigned, fits, parsed, suggestion

__all__ = ["RULE", "Recipe"]

RULE = "'fc*.weight=SparseVD(Block(16, 16))'"


@dataclass(frozen=True)
class Recipe:
    """All that a run depends on. On a CPU and the same versions, the same recipe gives the same bits.

    Attributes:
        net, data: names, as :mod:`bayesprune.runs.sources` reads them.
        rules: which method fits which weight, as ``"fc*.weight=SparseVD(Block(16, 16))"``; the first match wins. None
            at all mean ``SparseVD()`` for every parameter called ``weight`` of two or more axes.
        epochs, batch, lr, warmup: as :func:`bayesprune.fit` takes them; ``batch`` is examples a step.
        prune: a schedule, as ``"Cubic(keep=0.05)"``.
        start: a file with the trained net's state dict, which posteriors start at.
        start_sha256: its checksum.
        pretrain, pretrain_lr: epochs of ordinary training before the fit, and their learning rate.
        estimator: as :class:`bayesprune.BayesianNet` takes it.
        seed: fixes initial weights, shuffling and draws.
        threads: of torch; sums round differently with another number.
        device, precision: as :func:`bayesprune.fit` takes them.
        versions: of what made the run.

    Raises:
        ValueError: a value out of range, or a rule or schedule that cannot be read.

    >>> Recipe.read_text(Recipe(net="vit", data="cifar10", lr=0.01).to_toml()).lr
    0.01
    """

    net: str
    data: str
    rules: tuple[str, ...] = ()
    epochs: int = 20
    batch: int = 128
    lr: float = 1e-3
    warmup: float | None = None
    prune: str | None = None
    start: str | None = None
    start_sha256: str | None = None
    pretrain: int = 0
    pretrain_lr: float = 1e-3
    estimator: str = "local"
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    precision: str = "no"
    versions: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("pretrain", 0), ("threads", 1), ("warmup", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} is a number ≥ {least}, got {value}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is a number from 0 to 2⁶³ − 1, got {self.seed}")
        for name in ("lr", "pretrain_lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is a learning rate > 0, got {getattr(self, name)}")
        for name, known in (("estimator", get_args(Estimator)), ("precision", ("no", "bf16"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}; got {getattr(self, name)!r}")
        self.methods()
        self.schedule()

    def methods(self) -> dict[str, Method]:
        """The rules, read: glob → method."""
        return assigned(self.rules, Method, RULE)  # type: ignore[type-abstract]

    def schedule(self) -> Callback | None:
        """The schedule, read."""
        return None if self.prune is None else parsed(self.prune, Callback, "'Cubic(keep=0.05)'")

    def to_toml(self) -> str:
        """The recipe as TOML; what is ``None`` or empty is left out."""
        plain = {name: value for name, value in asdict(self).items() if value not in (None, ())}
        versions = plain.pop("versions")
        lines = [f"{name} = {_written(value)}" for name, value in plain.items()]
        lines += ["", "[versions]", *(f"{_written(name)} = {_written(v)}" for name, v in versions.items())]
        return "\n".join(["# bayesprune fit recipe.toml --out another-folder   repeats this run", *lines, ""])

    def write(self, path: Path) -> None:
        """Write the recipe, whole or not at all."""
        replace_file(path, lambda fresh: fresh.write_text(self.to_toml(), encoding="utf-8"))

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """The recipe of a file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no recipe; the file and what is wrong are named.
        """
        if path.is_dir():
            raise ValueError(f"{path} is a folder: give the recipe in it, {path / 'recipe.toml'}")
        if not path.is_file():
            raise FileNotFoundError(f"there is no recipe {str(path)!r}")
        try:
            return cls.read_text(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def read_text(cls, text: str) -> "Recipe":
        """The recipe of a TOML text. Raises ``ValueError`` where it is none."""
        found = tomllib.loads(text)
        if "rules" in found and isinstance(found["rules"], list):
            found["rules"] = tuple(found["rules"])
        return cls.of(found)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Recipe":
        """A recipe of plain values by name. Raises ``ValueError`` on an unknown, missing or wrong one."""
        hints = get_type_hints(cls) | {"versions": dict}
        for name, value in given.items():
            if name not in hints:
                raise ValueError(f"a recipe has no {name!r}; {suggestion(name, hints)}")
            if not fits(value, hints[name]):
                raise ValueError(f"{name} must be {_typed(hints[name])}, got {value!r}")
        for name in ("net", "data"):
            if name not in given:
                raise ValueError(f"say what to train: --net lenet_300_100 --data mnist; {name} is missing")
        return cls(**given)

    def but(self, **changed: Any) -> "Recipe":
        """The recipe with other values. Raises ``ValueError`` as :class:`Recipe` does."""
        return replace(self, **changed)

    def check_like(self, other: "Recipe", mine: str, theirs: str) -> None:
        """Raise ``ValueError`` unless both are of one net on the same data; the runs are named in it."""
        if (self.net, self.data) != (other.net, other.data):
            raise ValueError(
                f"{mine} is of net {self.net} on {self.data}, {theirs} of net {other.net} on {other.data}: they cannot "
                "be compared"
            )

    def differences(self, given: Mapping[str, Any]) -> list[str]:
        """Where given values are others than the recipe's, in words."""
        mine = {f.name: getattr(self, f.name) for f in fields(self)}
        return [f"{n} {_shown(mine[n])}, not {_shown(v)}" for n, v in given.items() if mine[n] != v]


def _shown(value: Any) -> str:
    return " ".join(value) or "the default" if isinstance(value, tuple) else str(value)


def _typed(hint: Any) -> str:
    return hint.__name__ if hint in (int, str, float, dict) else str(hint).replace("tuple", "a list").split(" |")[0]


def _written(value: Any) -> str:
    """A TOML value: strings as JSON writes them, but for the one character that TOML escapes besides."""
    if isinstance(value, tuple):
        return "[\n" + "".join(f"    {_written(part)},\n" for part in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
