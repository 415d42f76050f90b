"""The house: rooms that say what they are, files that one reads at a sitting, no name that hides a room's."""

import ast
from pathlib import Path
from statistics import median

import pytest
from support.paths import ROOT

HOUSE = ROOT / "bayesprune"
FILES = sorted(HOUSE.rglob("*.py"))
ROOMS = sorted({path.parent for path in FILES})
NAMES = [str(path.relative_to(ROOT)) for path in FILES]


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_no_file_is_long_and_most_are_short():
    lengths = {str(path.relative_to(ROOT)): lines(path) for path in FILES}
    assert {name: n for name, n in lengths.items() if n > 400} == {}
    assert median(lengths.values()) < 120


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_every_room_says_what_it_is(room):
    door = room / "__init__.py"
    assert door.exists(), f"{room.relative_to(ROOT)} is a room without an __init__.py"
    words = ast.get_docstring(ast.parse(door.read_text())) or ""
    assert words.partition("\n")[0].endswith((".", ":")), f"{door.relative_to(ROOT)} starts with a line on what it is"


def test_there_is_no_room_for_what_has_no_name():
    nameless = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert [name for name in NAMES if Path(name).name in nameless] == []


def test_the_tests_stand_in_the_rooms_that_they_test():
    """A folder of tests is named as its room; what it shares is in ``support``, and no test file reads another."""
    tests = ROOT / "tests"
    rooms = {str(room.relative_to(HOUSE)) for room in ROOMS}
    folders = {str(path.parent.relative_to(tests)) for path in tests.rglob("test_*.py")}
    assert {f for f in folders if f not in rooms and not f.startswith("sparse/gpu/")} == {"zoo"}  # of every door
    for path in tests.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            found = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported = [name for name in found if name.rpartition(".")[2].startswith("test_")]
            assert imported == [], f"{path.relative_to(ROOT)} imports {imported}: what they share belongs in support/"
