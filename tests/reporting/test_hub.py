"""The hub: what is uploaded comes back as it was, with a card that says what the report says. No network is used."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def made() -> tuple[nn.Module, bp.Report]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    bnet = bp.BayesianNet(net, {"0.weight": bp.SparseVD()})
    bp.classify(bnet, 24)
    masks = bp.masks(bnet, keep=0.2)
    x, y = torch.randn(24, 16), torch.arange(24) % 3
    report = bp.report(bnet, masks, DataLoader(TensorDataset(x, y), batch_size=12), draws=2)
    return bp.export(net, bnet.means(), masks, example=x, formats={"0.weight": bp.CSR()}), report


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the hub: a repository a folder."""
    root = tmp_path / "server"

    def create_repo(self: Any, repo_id: str, *, private: bool | None, exist_ok: bool) -> None:
        (root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        (root / repo_id / "settings.json").write_text(json.dumps({"private": private, "token": self.token}))

    def upload_folder(self: Any, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
        return f"https://hub/{repo_id}/commit/1"

    def download(repo_id: str, filename: str, *, revision: str | None, token: str | None) -> str:
        assert revision == "v1"
        return str(root / repo_id / filename)

    monkeypatch.setattr(hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    return root


def test_what_is_pushed_comes_back_to_the_bit(made: tuple[nn.Module, bp.Report], server: Path) -> None:
    sparse, report = made
    assert bp.push_to_hub(sparse, "me/net", report=report, private=True, token="t") == "https://hub/me/net/commit/1"
    files = {file.name for file in (server / "me" / "net").iterdir()}
    assert files == {"settings.json", "model.safetensors", "README.md", "report.json"}
    assert json.loads((server / "me/net/settings.json").read_text()) == {"private": True, "token": "t"}
    x = torch.randn(5, 16)
    with torch.no_grad():
        assert torch.equal(bp.from_pretrained("me/net", revision="v1")(x), sparse(x))
        assert torch.equal(bp.from_pretrained(server / "me" / "net")(x), sparse(x))


def test_the_card_says_what_the_report_says(made: tuple[nn.Module, bp.Report], tmp_path: Path) -> None:
    sparse, report = made
    folder = bp.save_pretrained(sparse, tmp_path / "mine", report=report)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert hub.ModelCardData(**hub.ModelCard(text).data.to_dict()).library_name == "bayesprune"
    assert 'bp.from_pretrained("mine")' in text and text.startswith("---\n")
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report.to_dict()))
    for model in report.models:
        assert f"| {model.name} | {model.kept:.2%} | {model.score.error:.2%} ±" in text
    assert all("**Warning:** " in text for _ in report.warnings)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) > 10 and all(line.endswith("|") for line in tables)


def test_without_a_report_the_card_is_short(made: tuple[nn.Module, bp.Report], tmp_path: Path) -> None:
    folder = bp.save_pretrained(made[0], tmp_path / "mine")
    assert {file.name for file in folder.iterdir()} == {"model.safetensors", "README.md"}
    assert hub.ModelCard((folder / "README.md").read_text()).data.library_name == "bayesprune"


def test_a_folder_without_a_net_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors"):
        bp.from_pretrained(tmp_path)
