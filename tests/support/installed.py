"""What an install brings: the packages of a requirement, and an interpreter in which there is nothing else."""

import subprocess
import sys
import tomllib
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

_BLOCKED = """
import sys

from importlib.machinery import PathFinder

class Present(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {absent!r} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Present
"""


def brought_by(*requirements: str) -> set[str]:
    """The distributions that installing ``requirements`` brings here, themselves included."""
    found: set[str] = set()
    todo = [(Requirement(text), "") for text in requirements]
    while todo:
        wanted, extra = todo.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(wanted.name)
        if name in found and not wanted.extras:
            continue
        found.add(name)
        if name == "bayesprune":  # as it stands in pyproject.toml, whatever was installed
            needs = [
                *PROJECT["dependencies"],
                *(n for of in wanted.extras for n in PROJECT["optional-dependencies"][of]),
            ]
            todo += [(Requirement(need), "") for need in needs]
            continue
        needs = metadata.requires(name) or []
        todo += [(Requirement(need), of) for need in needs for of in ("", *wanted.extras)]
    return found


def with_only(distributions: set[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter that finds, of all that is installed here, ``distributions`` alone."""
    absent = {
        module
        for module, of in metadata.packages_distributions().items()
        if not {canonicalize_name(name) for name in of} & (distributions | {"bayesprune"})
    }
    command = [sys.executable, "-c", _BLOCKED.format(absent=absent) + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
