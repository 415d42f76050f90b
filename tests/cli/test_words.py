"""Small things at the prompt: versions, percentages, completion, warnings and refusals in the command line's words."""

import inspect
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import FIT, bayesprune, inside, refused
from support.paths import ROOT

import bayesprune as bp
from bayesprune import corruptions, data, nets
from bayesprune.cli import completion
from bayesprune.cli.options import fraction


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a finished run of which a third of the weights are left."""
    with inside(tmp_path_factory.mktemp("words")) as folder:
        assert bayesprune(*FIT, "--epochs", "2", "--prune", "Cubic(keep=0.3)", "--no-control").code == 0
        yield folder


def in_a_process(*command: str, **env: str) -> str:
    code = [sys.executable, *command]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(code, capture_output=True, text=True, env=env, timeout=600, check=True).stdout


def test_the_version_is_the_packages() -> None:
    assert bayesprune("--version").out == f"bayesprune {bp.__version__}\n"
    assert in_a_process("-m", "bayesprune", "--version") == f"bayesprune {bp.__version__}\n"


def test_a_fraction_may_be_a_percentage(run: Path) -> None:
    assert [fraction(text) for text in ("10%", "2.5 %", "0.1", 0.2)] == [0.1, 0.025, 0.1, 0.2]
    percent, plain = (bayesprune("masks", "run", "--keep", keep, "--json").json for keep in ("10%", "0.1"))
    assert percent == plain and percent["choice"]["keep"] == 0.1
    assert "a fraction is written as 0.05 or 5%, got 'ten'" in refused("masks", "run", "--keep", "ten")
    assert "--keep is a fraction in (0, 1], or 5%; got 2.0" in refused("masks", "run", "--keep", "200%")


def test_a_threshold_that_keeps_nothing_is_refused(run: Path) -> None:
    before = bayesprune("masks", "run", "--keep", "0.1", "--json").json
    said = refused("masks", "run", "--snr", "1e9")
    assert "--snr 1e+09 keeps nothing: the largest ratio of a group is" in said
    largest = max(float(part) for part in said.split("group is ")[1].split(",")[:1])
    assert bayesprune("masks", "run", "--snr", str(0.99 * largest), "--json").json["kept"] >= 1
    assert bayesprune("masks", "run", "--keep", "0.1", "--json").json == before


def test_a_sweep_goes_below_what_the_fit_left(run: Path) -> None:
    told = bayesprune("sweep", "run", "--saliency", "snr", "--json").json
    asked = {point["asked"] for point in told["points"] if point["saliency"] == "snr"}
    assert asked == {0.2, 0.1, 0.05, 0.02, 0.01}
    said = refused("sweep", "run", "--keep", "0.5", "--saliency", "snr")
    assert "--keep 0.5 is more than the fit left, 30." in said
    some = bayesprune("sweep", "run", "--keep", "0.5", "--keep", "0.1", "--saliency", "snr", "--json")
    assert {point["asked"] for point in some.json["points"] if point["saliency"] == "snr"} == {0.1}
    assert "the fit left 30." in some.err and "--keep 0.5" in some.err
    equal = bayesprune("sweep", "run", "--keep", "30%", "--saliency", "snr", "--json").json
    assert {point["asked"] for point in equal["points"] if point["saliency"] == "snr"} == {0.3}


def test_warnings_are_in_the_command_lines_words(run: Path) -> None:
    said = bayesprune("masks", "run", "--keep", "0.002").err
    assert "--keep 0.002 leaves" in said and "bayesprune fit --prune 'Cubic(keep=…)'" in said
    assert "keep=0.002" not in said and "scope=" not in said and "fit(…" not in said


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_files_of_a_run_may_be_read_as_the_umask_says(run: Path) -> None:
    before = os.umask(0o022)
    try:
        assert bayesprune("masks", "run", "--keep", "0.1").code == 0
        for more in ((), ("--compress", "--out", "small.bp")):
            assert bayesprune("export", "run", "--format", "*=CSR()", *more).code == 0
    finally:
        os.umask(before)
    files = [
        Path("small.bp"),
        *(Path("run") / name for name in ("model.safetensors", "masks.safetensors", "plan.json")),
    ]
    assert {file.name: oct(stat.S_IMODE(file.stat().st_mode)) for file in files} == {
        file.name: oct(0o644) for file in files
    }


def test_what_is_completed_is_what_there_is() -> None:
    functions = {name for name, f in inspect.getmembers(nets, inspect.isfunction) if f.__module__ == nets.__name__}
    assert set(completion.NETS) == {name for name in functions if not name.startswith("_")}
    methods = {name for name in bp.methods.__all__ if name not in {"Method", "Posterior", "TwoScales"}}
    assert set(completion.METHODS) == methods
    assert set(completion.CORRUPTIONS) == {c.__name__ for c in corruptions.CORRUPTIONS}
    ours = {name for name, f in inspect.getmembers(data, inspect.isfunction) if f.__module__ == data.__name__}
    plain = {name for name in ours if not name.startswith("_")} - {"uci"}
    assert {name for name in completion.DATA if ":" not in name} == plain
    for name in completion.SALIENCIES:
        assert bp.pruning.__dict__.get(name) or hasattr(bp, name)


def test_a_shell_completes_values_and_loads_no_torch() -> None:
    shell = {"_BAYESPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": "bayesprune fit --net le", "COMP_CWORD": "3"}
    code = """
import sys
sys.argv = ["bayesprune"]
from bayesprune.cli import app
try:
    app(prog_name="bayesprune")
finally:
    print("torch" in sys.modules)
"""
    assert in_a_process("-c", code, **shell).split() == ["lenet_300_100", "lenet_5_caffe", "False"]


def test_a_demo_that_cannot_be_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYESPRUNE_DATA", str(tmp_path / "nowhere"))
    with inside(tmp_path):
        assert "BAYESPRUNE_DATA" in refused("demo", "--data", "mnist", "--out", "mine")
        assert bayesprune("demo", "--seed", "-1").code == 2
        assert not list(tmp_path.iterdir())
