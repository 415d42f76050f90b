"""Importing the package loads nothing heavy and changes nothing; every promised name is there."""

import json
import subprocess
import sys

from support.paths import ROOT


def run(code: str) -> str:
    """What ``code`` prints in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(statement: str) -> set[str]:
    """The packages outside Python's own library that ``statement`` loads."""
    shown = "print(json.dumps(sorted(set(sys.modules) - before)))"
    found = json.loads(run(f"import sys, json; before = set(sys.modules); {statement}; {shown}"))
    modules = {name.partition(".")[0] for name in found}
    return {name for name in modules if name not in sys.stdlib_module_names}


def test_importing_bayesprune_loads_nothing_else() -> None:
    assert loaded_by("import bayesprune") == {"bayesprune", "lazy_loader"}


def test_patterns_and_layouts_need_no_pyro() -> None:
    """The sparse half stands on them, and is served without Pyro."""
    loaded = loaded_by("import bayesprune; bayesprune.Block; import bayesprune.layout")
    assert "torch" in loaded
    assert not loaded & {"pyro", "matplotlib", "arviz", "sklearn", "accelerate", "scipy", "pandas", "rich", "numba"}


def test_fitting_needs_no_plots_and_no_data_libraries() -> None:
    loaded = loaded_by("import bayesprune; bayesprune.fit; bayesprune.predict; bayesprune.masks")
    assert {"pyro", "accelerate"} <= loaded
    assert not loaded & {"matplotlib", "arviz", "sklearn", "pandas", "pooch", "typer"}


def test_every_promised_name_is_there_and_listed() -> None:
    code = """
import bayesprune
missing = []
for name in bayesprune.__all__:
    try:
        value = getattr(bayesprune, name)
    except Exception as error:
        missing.append(f"{name}: {error!r}")
        continue
    assert getattr(bayesprune, name) is value, name
assert not missing, missing
assert set(bayesprune.__all__) <= set(dir(bayesprune))
assert "__version__" in dir(bayesprune)
assert len(set(bayesprune.__all__)) == len(bayesprune.__all__)
print(len(bayesprune.__all__))
"""
    assert int(run(code)) >= 20


def test_pictures_are_reached_by_name_and_loaded_when_they_are() -> None:
    assert "matplotlib" in loaded_by("import bayesprune; bayesprune.plots.reliability")
    assert not loaded_by("import bayesprune; bayesprune.corruptions") & {"matplotlib", "pyro", "pandas"}


def test_names_are_listed_before_they_are_used() -> None:
    assert run("import bayesprune; print(set(bayesprune.__all__) <= set(dir(bayesprune)))") == "True\n"


def test_star_import_gives_the_promised_names() -> None:
    assert run("from bayesprune import *; import bayesprune as b; print(set(b.__all__) <= set(globals()))") == "True\n"


def test_an_unknown_name_is_an_attribute_error_that_repeats_it() -> None:
    code = """
import bayesprune
try:
    bayesprune.SparesVD
except AttributeError as error:
    print(error)
"""
    assert run(code) == "No bayesprune attribute SparesVD\n"


def test_importing_changes_no_global_setting() -> None:
    code = """
import logging, random, warnings
import numpy, pyro, torch

def settings():
    return (pyro.settings.get(), torch.get_default_dtype(), torch.get_num_threads(), torch.get_rng_state().tolist(),
            numpy.random.get_state()[1].tolist(), list(warnings.filters), logging.getLogger().handlers[:],
            torch.is_grad_enabled(), len(pyro.get_param_store()))

import accelerate, arviz, rich.progress, scipy.special  # other people's own doings
before = settings()
import bayesprune
for name in bayesprune.__all__:
    getattr(bayesprune, name)
after = settings()
print([i for i, (a, b) in enumerate(zip(before, after)) if a != b])
"""
    assert run(code) == "[]\n"
