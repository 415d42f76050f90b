"""The package's public names: all there, each where it was, and known to type checkers."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from support.paths import ROOT

import bayesprune as bp

NAMES = [
    "ARD",
    "BSR",
    "BayesianNet",
    "Block",
    "BudgetWarning",
    "CSR",
    "Callback",
    "Channel",
    "Codebook",
    "Compacted",
    "Compressed",
    "Cubic",
    "Curve",
    "Dense",
    "Deterministic",
    "ELBO",
    "EarlyStopping",
    "Elpd",
    "EmptyLayerWarning",
    "Epoch",
    "FileError",
    "Gaussian",
    "GroupVD",
    "HardConcrete",
    "Heads",
    "History",
    "Horseshoe",
    "Laplace",
    "LeftOutWarning",
    "Method",
    "NM",
    "NormalJeffreys",
    "OnnxFile",
    "Pattern",
    "PatternError",
    "Plan",
    "Posterior",
    "Prediction",
    "Pruned",
    "Report",
    "Run",
    "ScaleWarning",
    "SemiStructured",
    "SparseVD",
    "Sparsified",
    "SpikeSlab",
    "StructuredDropout",
    "TwoScales",
    "UnreliableLOOWarning",
    "Unstructured",
    "bit_widths",
    "classify",
    "compact",
    "compressed",
    "condition",
    "corruptions",
    "elpd",
    "export",
    "fit",
    "from_pretrained",
    "khat",
    "lamp",
    "likelihood",
    "likelihoods",
    "load",
    "loo",
    "magnitude",
    "masks",
    "plan",
    "plots",
    "predict",
    "prune",
    "push_to_hub",
    "random",
    "regress",
    "report",
    "save",
    "save_pretrained",
    "snr",
    "sparsify",
    "supervise",
    "sweep",
    "to_inference_data",
    "to_onnx",
]

OPTIONAL = {  # a net is fitted, packed and served without these
    "PIL": "CIFAR-10 from JPEG files",
    "constriction": "compressed files",
    "datasets": "data sets of Hugging Face",
    "llvmlite": "the CPU kernel",
    "huggingface_hub": "nets on the hub",
    "matplotlib": "pictures",
    "onnx": "ONNX files, and a rival of the benchmark",
    "onnxruntime": "ONNX files, and a rival of the benchmark",
    "pandas": "frames of a fit's history, and data in CSV files",
    "pooch": "data sets that are downloaded",
    "scipy": "a rival of the benchmark",
    "sklearn": "the digits",
    "transformers": "nets of Hugging Face",
    "triton": "the GPU kernel",
}
THROUGH = {  # rooms and modules of ours that stand on one of them
    "bayesprune.sparse.gpu": "triton",
    "bayesprune.sparse.native": "llvmlite",
    "bayesprune.reporting.card": "scipy",
    "bayesprune.reporting.grids": "matplotlib",
    "bayesprune.reporting.inline": "matplotlib",
    "bayesprune.reporting.pictures": "matplotlib",
}


def test_the_public_names_are_those_that_were_promised() -> None:
    assert sorted(bp.__all__) == NAMES
    for name in NAMES:
        assert getattr(bp, name) is getattr(bp, name)


def test_a_submodule_of_the_same_name_hides_no_function() -> None:
    """``reporting/report.py`` holds ``report``: to import the one must not replace the other."""
    doors = [path.parent for path in (ROOT / "bayesprune").rglob("__init__.pyi")]
    assert len(doors) > 5
    for door in doors:
        room = import_module(".".join(door.relative_to(ROOT).parts))
        for module in door.glob("*.py"):
            if module.stem in room.__all__ and room is not bp:
                inner = import_module(f"{room.__name__}.{module.stem}")
                assert getattr(room, module.stem) is not inner, f"{room.__name__}.{module.stem}"
        assert all(hasattr(room, name) for name in room.__all__), room.__name__


def imports_in_functions(source: Path) -> list[str]:
    """What a file imports below its top level, as dotted names; blocks for type checkers are at the top."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    inside = [
        node
        for top in ast.walk(tree)
        if isinstance(top, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(top)
    ]
    found = []
    for node in inside:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_functions_import_optional_dependencies_alone(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden.py"
    hidden.write_text("import os\ndef f():\n    if os:\n        from json import loads\n        import re, ast\n")
    assert imports_in_functions(hidden) == ["json.loads", "re", "ast"]
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "bayesprune").rglob("*.py")
        for name in imports_in_functions(path)
        if name.partition(".")[0] not in OPTIONAL and not any(f"{name}.".startswith(f"{room}.") for room in THROUGH)
    }
    assert not wrong


@pytest.mark.slow
def test_type_checkers_know_what_the_names_are(tmp_path: Path) -> None:
    shown = ("fit", "masks", "report", "export", "plan", "load", "sweep", "compact", "BayesianNet", "SparseVD", "Plan")
    file = tmp_path / "uses.py"
    file.write_text("import bayesprune as bp\n" + "".join(f"reveal_type(bp.{name})\n" for name in shown))
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    revealed = [
        line.partition("Revealed type is ")[2].strip('"') for line in done.stdout.splitlines() if "Revealed" in line
    ]
    assert len(revealed) == len(shown), done.stdout + done.stderr
    for name, kind in zip(shown, revealed, strict=True):
        assert kind.startswith(("def (", "def [", "Overload(")) and kind != "Any", (name, kind)
