"""Each notebook runs from top to bottom with a small setting, warns of nothing, and is stored without its outputs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from support.paths import ROOT

FOLDER = ROOT / "notebooks"
SMALL: dict[str, dict[str, Any]] = {
    "01_fit_a_sparse_posterior": {"PRETRAIN": 5, "EPOCHS": 10},
    "02_inspect_uncertainty": {"EPOCHS": 10, "DRAWS": 30},
    "03_choose_what_to_prune": {"IMAGES": 5_000, "EPOCHS": 1, "KEEP": [0.5, 0.1, 0.03]},
    "04_export_and_run": {"IMAGES": 5_000, "EPOCHS": 1},
    "05_your_own_prior": {"EPOCHS": 8, "STEPS": 60},
    "06_regression_with_the_horseshoe": {"EPOCHS": 20, "DRAWS": 20},
    "07_prune_a_trained_net": {"PRETRAIN": 5, "KEEP": [0.5, 0.3, 0.2]},
    "08_a_transformer_on_images": {"PRETRAIN": 3, "KEEP": [0.9, 0.8, 0.75]},
    "09_a_table_from_a_csv": {"PRETRAIN": 10, "EPOCHS": 20},
    "10_your_own_loop": {"PRETRAIN": 5, "EPOCHS": 8},
}
DOWNLOADS = {"03_choose_what_to_prune", "04_export_and_run", "06_regression_with_the_horseshoe"}
WARNING = re.compile(r"\w+Warning: |Traceback \(most recent call last\)")
ABSOLUTE = re.compile(r"""(^|[\s"'`(=])(/\w+/|~/|[A-Za-z]:\\)""", re.MULTILINE)


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def parameters(notebook: Any) -> int:
    """The place of the one cell that holds the settings."""
    (place,) = (i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    return place


@pytest.fixture(scope="module")
def arvizs_notice() -> None:
    """ArviZ 0.2x has a notice for the first import of each day: no notebook's is the first."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", "import arviz"], check=True)


@pytest.fixture
def this_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jupyter's ``python3`` is the Python that runs the tests, whatever else the machine calls so."""
    spec = tmp_path / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.usefixtures("arvizs_notice", "this_interpreter")
def test_a_notebook_runs_and_warns_of_nothing(name: str, tmp_path: Path) -> None:
    if name in DOWNLOADS and not os.environ.get("BAYESPRUNE_DATA"):
        pytest.skip("BAYESPRUNE_DATA names no folder with the real data")
    notebook = read(name)
    settings = "\n".join(f"{key} = {value!r}" for key, value in SMALL[name].items())
    notebook.cells.insert(parameters(notebook) + 1, nbformat.v4.new_code_cell(settings))
    where = tmp_path / "elsewhere"  # a notebook needs nothing beside it
    where.mkdir()
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(where)}}).execute()
    assert list(where.iterdir()) == []
    pictures = 0
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output.text
            data = output.get("data", {})
            said = WARNING.search(output.get("text", "") + data.get("text/plain", ""))
            assert said is None, f"{cell.source}\n{output}"
            pictures += "image/png" in data
    assert pictures >= 3, "a picture per idea"


def test_every_notebook_is_run() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_the_small_setting_changes_what_the_notebook_sets(name: str) -> None:
    notebook = read(name)
    full: dict[str, Any] = {}
    exec(notebook.cells[parameters(notebook)].source, full)
    assert all(full[key] != value for key, value in SMALL[name].items())


@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_is_stored_clean(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        assert ABSOLUTE.search(cell.source) is None, cell.source
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("name", SMALL)
def test_links_lead_somewhere(name: str) -> None:
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("https://") or (FOLDER / target).is_file(), target
