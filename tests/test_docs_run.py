"""Every Python line that the pages print runs as it is printed, block after block of a page in one world."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from support.paths import ROOT
from torch import nn

import bayesprune as bp

_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
LONG = {"pictures.md", "report.md"}  # they fit nets to MNIST
CUDA = {"gpu.md"}
ELSEWHERE = {"README.md": "tests/test_readme.py", "inspect.md": "tests/inspection/test_inference_data.py"}


def blocks(page: Path) -> list[str]:
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def pages() -> list[Path]:
    return [p for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if blocks(p)]


def given(page: Path) -> dict[str, Any]:
    """What a page's first block takes from the reader: a fitted net, its masks, an input."""
    if page.name == "tasks.md" or not re.match(r"(net|sparse)\b", blocks(page)[0]):
        return {}
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    bnet = bp.BayesianNet(net, {"*.weight": bp.SparseVD()})
    masks, x = bp.masks(bnet, keep=0.5), torch.randn(16, 32)
    world = {"net": net, "bnet": bnet, "masks": masks, "means": bnet.means(), "x": x, "new": torch.randn(16, 32)}
    return {**world, "torch": torch, "bp": bp}


def run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    (folder / "pictures").mkdir()
    world = given(page)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, code in enumerate(blocks(page)):
            exec(compile(code, f"{page.name}, block {number}", "exec"), world)
    return world


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_what_is_printed_is_python(page: Path) -> None:
    for code in blocks(page):
        compile(code, page.name, "exec")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page.name in LONG), id=page.name)
        for page in pages()
        if page.name not in ELSEWHERE
    ],
)
def test_what_is_printed_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.name in CUDA and not torch.cuda.is_available():
        pytest.skip("the page is about CUDA")
    assert run(page, tmp_path, monkeypatch)


def test_pages_that_run_elsewhere_do() -> None:
    for page, test in ELSEWHERE.items():
        text = (ROOT / test).read_text()
        assert page in text and "exec(" in text


def test_a_line_that_fails_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\nand\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError):
        run(page, tmp_path, monkeypatch)
