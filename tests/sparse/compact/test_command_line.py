"""bayesprune export --compact: the run's net made smaller, what is left packed, and all of it said."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.command import FIT, bayesprune, inside

import bayesprune as bp
from bayesprune import nets
from bayesprune.runs.folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """A run whose hidden units go one by one, and what its export said."""
    with inside(tmp_path_factory.mktemp("compact")) as folder:
        rules = ("--rule", "fc1.weight=SparseVD(Channel(0))", "--rule", "fc2.weight=SparseVD()")
        bayesprune(*FIT, *rules, "--pretrain", "2", "--epochs", "2")
        bayesprune("masks", "run", "--keep", "0.4")
        yield folder, bayesprune("export", "run", "--compact", "--format", "fc2=CSR()", "--json").json


def test_the_model_is_the_masked_posterior_with_fewer_units(run: tuple[Path, Any]) -> None:
    folder, told = run
    masks, _ = RunFolder(folder / "run").masks()
    units = int((masks["fc1.weight"].any(1) & masks["fc2.weight"].any(0)).sum())
    assert 0 < units < 20
    assert told["compact"]["weights"] == [64 * 20 + 20 + 20 * 10 + 10, 64 * units + units + units * 10 + 10]
    assert told["compact"]["flops"] == [2 * 64 * (64 * 20 + 20 * 10), 2 * 64 * (64 * units + units * 10)]
    model = bp.load(folder / "run" / "model.safetensors")
    assert model.get_submodule("fc1").out_features == units
    mean = _means(folder)
    dense = nets.mlp(64, (20,), 10)
    dense.load_state_dict({name: x * masks.get(name, torch.ones(())) for name, x in mean.items()})
    x = torch.rand(5, 64)
    torch.testing.assert_close(model(x), dense.eval()(x), rtol=1e-5, atol=1e-5)


def _means(folder: Path) -> dict[str, torch.Tensor]:
    from bayesprune.runs.train import open_run

    return open_run(RunFolder(folder / "run"), "cpu")[1].means()


def test_it_is_written_down_and_shown(run: tuple[Path, Any]) -> None:
    folder, told = run
    assert json.loads((folder / "run" / "plan.json").read_text()) == told
    with inside(folder):
        shown = bayesprune("export", "run", "--compact").out
        assert "fc1.weight" in shown and f"1,510 → {told['compact']['weights'][1]:,} weights" in shown
        smaller = bayesprune("info", "run/model.safetensors", "--json").json["smaller"]
        assert smaller["fc1"] == {"out_features": [20, smaller["fc2"]["in_features"][1]]}
        assert "out_features 20 → " in bayesprune("info", "run/model.safetensors").out
        assert bayesprune("bench", "run", "--budget", "0.02", "--no-rivals", "--json").json["speedup"] > 0
