"""Every net of the zoo through every door: right to 1e-4 of the largest output, or refused with its cause.

All that can be packed is, in turns in each format and by each kernel that takes it. The run ends with a table of what
was refused.
"""

import inspect
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import pytest
import torch
from support.zoo import HUGGING_FACE, SLICE, ZOO
from support.zoo.doors import DOORS, Subject
from support.zoo.refusals import KNOWN, cause

CASES = [
    pytest.param(name, door, marks=() if name in SLICE else pytest.mark.slow, id=f"{name}: {door}")
    for name in ZOO
    for door in DOORS
]
subject = lru_cache(maxsize=1)(Subject)
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # budgets, empty layers, slow formats: all on purpose here
]


@pytest.fixture(scope="module", autouse=True)
def _packed_wherever_it_can_be() -> Iterator[None]:
    """A candidate always wins over dense, another one for each weight."""

    def timed(runners: dict[str, Callable[[], object]], **about: object) -> tuple[dict[str, float], str]:
        packed = [name for name in runners if name != "dense"]
        wins = packed[zlib.crc32(repr(packed).encode()) % len(packed)] if packed else ""
        return {name: 0.1 if name == wins else 1.0 if name == "dense" else 0.5 for name in runners}, ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("bayesprune.sparse.planning.planner"), "timed", timed)
        yield


@pytest.mark.parametrize(("name", "door"), CASES)
def test_right_or_refused(name: str, door: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    if name in HUGGING_FACE:
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    try:
        if "folder" in inspect.signature(DOORS[door]).parameters:
            DOORS[door](subject(name), tmp_path)
        else:
            DOORS[door](subject(name))
    except AssertionError:
        raise
    except Exception as error:
        told = cause(error)
        record_property("refused", (door, name, told))
        if "compact" not in door:
            assert KNOWN.get(door, {}).get(name, "nothing is known of it") in told
        return
    assert name not in KNOWN.get(door, {}), "it is not refused any more"


def test_the_zoo_is_large_and_its_slice_is_of_it() -> None:
    assert len(ZOO) >= 150
    assert set(SLICE) <= set(ZOO)
    assert all(set(names) <= set(ZOO) for names in KNOWN.values())
