"""Recipes: TOML files that hold all that a run depends on and repeat it."""

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

import msgspec
import tomli_w

from bayesprune._files import replace as replace_file
from bayesprune.draws.gaussian import Estimator
from bayesprune.methods import Method
from bayesprune.pruning import Callback
from bayesprune.runs.expressions import assigned, divided, names_own, parsed
from bayesprune.runs.files import is_file
from bayesprune.runs.own import module_of
from bayesprune.runs.suggestions import suggestion

__all__ = ["RULE", "Recipe"]

RULE = "'fc*.weight=SparseVD(Block(16, 16))'"
_SCHEDULE = "'Cubic(keep=0.05)'"
_MOST_BYTES, _MOST_DOTS, _MOST_NESTED = 2**20, 50, 50  # of a recipe; dots of a line and brackets outside of strings
_STRINGS = re.compile(  # and comments
    r'"""(?:\\.|[^\\])*?"""' + r"|'{3}.*?'{3}" + r'|"(?:\\.|[^"\\\n])*"' + r"|'[^'\n]*'|#[^\n]*",
    re.DOTALL,
)


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
        control: whether the dense net is trained on for ``epochs`` too, at the same rate, as what a report compares
            with.
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
    control: bool = True
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
        for value in divided(self.rules, Method, RULE).values():
            if not names_own(value):  # the user's own code is run where it is asked for, not where it is read of
                parsed(value, Method, RULE)  # type: ignore[type-abstract]
        if self.prune is not None and not names_own(self.prune):
            self.schedule()

    def own_code(self) -> dict[str, str]:
        """What of the recipe runs code that is not ours: field → the text that names it."""
        found = {name: getattr(self, name) for name in ("net", "data") if _is_own(name, getattr(self, name))}
        values = divided(self.rules, Method, RULE).values()
        rules = [rule for rule, value in zip(self.rules, values, strict=True) if names_own(value)]
        if rules:
            found["rules"] = " ".join(rules)
        if self.prune is not None and names_own(self.prune):
            found["prune"] = self.prune
        return found

    def check_trusted(self, whose: str, named: Collection[str] = ()) -> None:
        """Raise ``ValueError`` where the recipe runs code of fields that the command line has not ``named``.

        >>> Recipe(net="os:system('true')", data="digits").check_trusted("run/")
        Traceback (most recent call last):
        ValueError: run/ runs code that is not bayesprune's (net "os:system('true')"): add --trust if you know it
        """
        foreign = [f'{name} "{text}"' for name, text in self.own_code().items() if name not in named]
        if foreign:
            raise ValueError(
                f"{whose} runs code that is not bayesprune's ({', '.join(foreign)}): add --trust if you know it"
            )

    def methods(self) -> dict[str, Method]:
        """The rules, read: glob → method."""
        return assigned(self.rules, Method, RULE)  # type: ignore[type-abstract]

    def schedule(self) -> Callback | None:
        """The schedule, read."""
        return None if self.prune is None else parsed(self.prune, Callback, _SCHEDULE)

    def to_toml(self) -> str:
        """The recipe as TOML; what is ``None`` or empty is left out."""
        plain = {name: value for name, value in asdict(self).items() if value not in (None, ())}
        plain["versions"] = dict(plain["versions"])
        return "# bayesprune fit recipe.toml --out another-folder   repeats this run\n" + tomli_w.dumps(plain)

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
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise ValueError(f"{path}: no recipe: it has {size:,} bytes, and a recipe a few hundred")
        try:
            return cls.read_text(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def read_text(cls, text: str) -> "Recipe":
        """The recipe of a TOML text. Raises ``ValueError`` where it is none."""
        _check_plain(text)
        return cls.of(tomllib.loads(text))

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Recipe":
        """A recipe of plain values by name. Raises ``ValueError`` on an unknown, missing or wrong one."""
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise ValueError(f"a recipe has no {name!r}; {suggestion(name, known)}")
        for name in ("net", "data"):
            if name not in given:
                raise ValueError(f"say what to train: --net lenet_300_100 --data mnist; {name} is missing")
        try:
            return msgspec.convert(dict(given), cls)
        except msgspec.ValidationError as error:
            raise ValueError(_told(error, given)) from error

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


def _is_own(name: str, text: str) -> bool:
    named = name == "data" and (text.startswith("uci:") or is_file(text))
    return module_of(text) is not None and not named


def _told(error: msgspec.ValidationError, given: Mapping[str, Any]) -> str:
    """What is wrong with a value of a recipe, with its name and what was given."""
    if isinstance(error.__cause__, ValueError):
        return str(error.__cause__)  # a value of the right type that is out of range
    found = re.match(r"Expected `(?P<kinds>[^`]*)`.* - at `\$\.(?P<name>\w+)", str(error))
    if found is None:
        return str(error)
    kind = found["kinds"].split(" ")[0].replace("array", "a list of texts").replace("object", "a table of texts")
    value = repr(given[found["name"]])
    return f"{found['name']} must be {kind}, got {value if len(value) < 100 else value[:100] + '…'}"


def _check_plain(text: str) -> None:
    """Raise ``ValueError`` on a text that no recipe is, and that a reader of TOML takes long over or gives up on."""
    bare = _STRINGS.sub("", text)
    if any(line.count(".") > _MOST_DOTS for line in bare.splitlines()):
        raise ValueError(f"no recipe: it holds a key of more than {_MOST_DOTS} parts")
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", bare):
        depth += 1 if bracket in "[{" else -1
        if depth > _MOST_NESTED:
            raise ValueError(f"no recipe: it is nested deeper than {_MOST_NESTED} levels")
