"""What may be installed beside bayesprune: no release with a published flaw, and none whose next one may break it."""

from itertools import chain

import pytest
from packaging.requirements import Requirement
from support.installed import PROJECT

TEXTS = chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
NEEDED = {r.name: r.specifier for r in map(Requirement, TEXTS)}
FLAWED = {"jinja2": "3.1.5", "pillow": "10.2.0", "filelock": "3.20.2", "scikit-learn": "1.4.2"}  # the last of each


@pytest.mark.parametrize("name", FLAWED)
def test_no_release_with_a_known_flaw_is_let_in(name: str) -> None:
    assert not NEEDED[name].contains(FLAWED[name])


@pytest.mark.parametrize("name", ["torch", "pyro-ppl", "accelerate", "safetensors", "constriction", "msgspec"])
def test_what_is_leant_on_has_an_upper_bound(name: str) -> None:
    assert not NEEDED[name].contains("99")
