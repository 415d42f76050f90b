"""What the README shows runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.paths import ROOT
from torch.utils.data import TensorDataset

import bayesprune as bp
from bayesprune import nets

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_your_trained_net_is_made_sparse_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net, x = nets.mlp(12, (24,), 3), torch.randn(160, 12)
    y = x[:, :3].argmax(-1)
    world = {"net": net, "train": TensorDataset(x[:128], y[:128]), "test": TensorDataset(x[128:], y[128:])}
    assert len(BLOCKS[0].splitlines()) <= 8
    exec(BLOCKS[0], world)
    assert "Error" in capsys.readouterr().out
    kept = [sum(int(m.sum()) for m in masks.values()) for masks in (world["result"].masks, world["masks"])]
    assert kept == [pytest.approx(0.05 * 360, abs=1), pytest.approx(0.3 * 360, abs=1)]
    with torch.no_grad():
        assert torch.allclose(world["sparse"](x), world["result"].export()(x), atol=1e-5)


@pytest.fixture(scope="module")
def ten_lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("readme")
    assert len(BLOCKS[1].splitlines()) <= 18
    world: dict[str, Any] = {}
    exec(BLOCKS[1].replace('"model.', f'"{folder.as_posix()}/model.'), world)
    return {**world, "path": folder / "model.bp"}


def test_the_lines_prune_to_the_budget_and_still_classify(ten_lines: dict[str, Any]) -> None:
    masks = ten_lines["masks"]
    total = sum(m.numel() for m in masks.values())
    assert sum(int(m.sum()) for m in masks.values()) / total == pytest.approx(0.1, abs=4 / total)
    errors = {m.name: m.score.error for m in ten_lines["report"].models}
    assert errors["posterior mean, pruned"] < 0.08 and errors["dense control"] < 0.06


def test_the_compressed_file_is_small_and_near(ten_lines: dict[str, Any]) -> None:
    assert ten_lines["path"].stat().st_size < 12_000
    x, y = ten_lines["splits"].test.tensors
    with torch.no_grad():
        errors = [
            float((n(x).argmax(-1) != y).float().mean()) for n in (ten_lines["sparse"], bp.load(ten_lines["path"]))
        ]
    assert abs(errors[0] - errors[1]) < 0.02


def test_the_loop_of_ones_own_is_the_one_that_is_tested() -> None:
    assert "bp.ELBO(model, bnet.guide" in BLOCKS[2]
    test = (ROOT / "tests/fitting/test_own_loop.py").read_text(encoding="utf-8")
    assert "README.md" in test and "exec(" in test  # it runs there, and is compared with a fit
