"""The results file: written whole after every part, and gone on with where it was left."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bayesprune._files import replace

__all__ = ["PARTS", "RefusedError", "Results", "check_file", "read"]

PARTS = ("tests", "host", "layers", "nets", "training")
_KIND = "bayesprune GPU benchmark, 1"


class RefusedError(ValueError):
    """What was asked for cannot be done; one line says why."""


def read(path: Path) -> dict[str, Any]:
    """The file's contents. Raises :class:`RefusedError` where it is no results file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RefusedError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RefusedError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict) or found.get("kind") != _KIND:
        raise RefusedError(f"{path} holds something else than the results of this program; give another --out")
    return found


def check_file(path: Path, rehearsal: bool) -> dict[str, Any] | None:
    """What the results file holds so far, if it is there.

    Raises:
        RefusedError: it cannot be written, or holds something that is not to be added to.
    """
    if not os.access(path if path.exists() else path.parent, os.W_OK) or not path.parent.is_dir() or path.is_dir():
        raise RefusedError(f"cannot write {path}: expected a file in a folder that is there and may be written to")
    found = read(path) if path.exists() else None
    if found is not None and found["rehearsal"] != rehearsal:
        raise RefusedError(f"{path} holds {'measurements' if rehearsal else 'a rehearsal'}; give another --out")
    return found


class Results:
    """What was measured, by part: records, each with the number of the run that made it.

    Args:
        path: where it lies; what is there already is kept and added to.
        machine: the identity of the machine and the code. A file of another is refused.
        run: the date and the command.
        rehearsal: whether anything in it is a measurement.

    Raises:
        RefusedError: the file cannot be written, or its figures do not belong beside those of this machine.
    """

    def __init__(self, path: Path, machine: dict[str, Any], run: dict[str, Any], rehearsal: bool) -> None:
        self.path = path
        fresh = {"kind": _KIND, "rehearsal": rehearsal, "machine": machine, "runs": [], "peaks": None, "notes": {}}
        self.data: dict[str, Any] = check_file(path, rehearsal) or {**fresh, **{part: [] for part in PARTS}}
        other = [key for key, value in machine.items() if self.data["machine"].get(key) != value]
        if other:
            key = other[0]
            was, now = self.data["machine"].get(key), machine[key]
            raise RefusedError(f"{path} was measured with {key} {was}, and this is {now}; give another --out")
        self.data["runs"].append(run)
        self.save()

    def save(self) -> None:
        """Put the whole file in place of the one before."""
        text = json.dumps(self.data, indent=1) + "\n"
        replace(self.path, lambda fresh: fresh.write_text(text, encoding="utf-8"))

    def add(self, part: str, record: dict[str, Any]) -> None:
        """One more record; :meth:`save` keeps it."""
        self.data[part].append({**record, "run": len(self.data["runs"]) - 1})

    def missing(self, part: str, wanted: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of ``wanted``, settings of records, that the part does not hold yet."""
        held = self.data[part]
        return [one for one in wanted if not any(one.items() <= record.items() for record in held)]

    def note(self, part: str, text: str | None) -> None:
        """What is to be said of a part: why it is not there, or not whole. None: nothing any more."""
        self.data["notes"].pop(part, None)
        if text is not None:
            self.data["notes"][part] = text
