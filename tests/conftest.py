"""Shapes and types in signatures are checked while testing, and free in use; Pyro's store stays empty."""

from collections.abc import Iterator

import pyro
import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("bayesprune", "support.typechecker.check")
torch.set_num_threads(1)  # the tensors are small: more threads wait for each other


@pytest.fixture(autouse=True)
def seeded_with_an_empty_store() -> Iterator[None]:
    """Nothing may leave a trace in Pyro's global store."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    assert len(pyro.get_param_store()) == 0
