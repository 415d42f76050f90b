"""What the README shows runs as it stands there."""

import re
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from support.paths import ROOT

import bayesprune as bp

README = ROOT / "README.md"


@pytest.fixture(scope="module")
def ten_lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("readme")
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    assert len(code.splitlines()) <= 14
    world: dict[str, Any] = {}
    exec(code.replace('"model.', f'"{folder.as_posix()}/model.'), world)
    return {**world, "path": folder / "model.safetensors"}


def test_the_ten_lines_prune_to_the_budget_and_still_classify(ten_lines: dict[str, Any]) -> None:
    masks = ten_lines["masks"]
    total = sum(m.numel() for m in masks.values())
    assert sum(int(m.sum()) for m in masks.values()) / total == pytest.approx(0.1, abs=4 / total)
    pruned = next(m for m in ten_lines["report"].models if m.name == "posterior mean, pruned")
    assert pruned.score.error < 0.08


def test_the_file_of_the_ten_lines_loads_to_the_same_outputs(ten_lines: dict[str, Any]) -> None:
    x = ten_lines["splits"].test.tensors[0]
    with torch.no_grad():
        assert torch.equal(bp.load(ten_lines["path"])(x), ten_lines["sparse"](x))


def test_the_plain_pyro_model_trains(ten_lines: dict[str, Any]) -> None:
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    splits = ten_lines["splits"]
    bnet = bp.BayesianNet(ten_lines["net"], {"fc*.weight": bp.SparseVD()})
    world = {"bnet": bnet, "pyro": pyro, "dist": dist, "SVI": SVI, "TraceMeanField_ELBO": TraceMeanField_ELBO}
    world["size"] = len(splits.train)
    exec(code.replace("SVI(model", "svi = SVI(model"), world)
    x, y = (t[:64] for t in splits.train.tensors)
    losses = [world["svi"].step(x, y) for _ in range(60)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert len(pyro.get_param_store()) == 0


def test_the_compressed_file_is_smaller_and_near(ten_lines: dict[str, Any]) -> None:
    path = ten_lines["path"].with_suffix(".bp")
    assert path.stat().st_size < ten_lines["path"].stat().st_size / 2
    x, y = ten_lines["splits"].test.tensors
    with torch.no_grad():
        errors = [float((net(x).argmax(-1) != y).float().mean()) for net in (ten_lines["sparse"], bp.load(path))]
    assert abs(errors[0] - errors[1]) < 0.02
