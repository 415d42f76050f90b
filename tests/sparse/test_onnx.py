"""ONNX files: ONNX Runtime gives what torch gives, or nothing is written."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.sparse import onnx as ours

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def run(path: Path, *arrays: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    named = {one.name: x.numpy() for one, x in zip(session.get_inputs(), arrays, strict=True)}
    return torch.from_numpy(session.run(None, named)[0])


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 16, 5))
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), head)


def test_a_net_that_was_made_smaller_runs_as_torch_does_for_any_batch(tmp_path: Path) -> None:
    net, example = convolutions().eval(), torch.randn(2, 3, 8, 8)
    mask = torch.ones(8, 3, 3, 3, dtype=torch.bool)
    mask[3:] = False
    smaller = bp.compact(net, {}, {"0.weight": mask}, example=example)
    file = bp.to_onnx(smaller.net, tmp_path / "net.onnx", example)
    assert file.path.stat().st_size == file.nbytes and file.difference < 1e-5
    for batch in (1, 7):
        x = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(run(file.path, x), smaller.net(x), rtol=1e-4, atol=1e-5)
    assert file.nbytes < bp.to_onnx(net, tmp_path / "dense.onnx", example).nbytes


def test_the_net_is_left_as_it_is_and_written_in_eval_mode(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9)).train()
    file = bp.to_onnx(net, tmp_path / "net.onnx", torch.randn(1, 4))
    assert net.training and net[1].training
    x = torch.randn(3, 4)
    torch.testing.assert_close(run(file.path, x), net[0](x).detach())


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(10, 4), nn.Linear(4, 2)

    def forward(self, ids: Tensor, weight: Tensor) -> dict[str, Tensor]:
        return {"logits": self.out((self.table(ids) * weight[..., None]).sum(1))}


def test_several_named_inputs(tmp_path: Path) -> None:
    net = Named().eval()
    example = {"ids": torch.randint(0, 10, (3, 5)), "weight": torch.rand(3, 5)}
    file = bp.to_onnx(net, tmp_path / "net.onnx", example)
    assert file.inputs == ("ids", "weight")
    with torch.no_grad():
        torch.testing.assert_close(run(file.path, *example.values()), net(**example)["logits"])


def test_what_cannot_be_is_refused_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, example, path = nn.Sequential(nn.Linear(8, 8)).eval(), torch.randn(2, 8), tmp_path / "net.onnx"
    masks = {"0.weight": torch.rand(8, 8) < 0.5}
    packed = bp.export(net, {}, masks, example=example, formats={"0.weight": bp.CSR()})
    for given, says in (
        (packed, "'0' is packed, and ONNX has no operator"),
        (bp.compact(net, {}, masks, example=example), "expected a net, an nn.Module, got Compacted; bp.compact"),
    ):
        with pytest.raises(ValueError, match=says):
            bp.to_onnx(given, path, example)
    with pytest.raises(FileNotFoundError, match="no folder"):
        bp.to_onnx(net, tmp_path / "nowhere" / "net.onnx", example)
    other = nn.Sequential(nn.Linear(8, 8)).eval()
    written = ours.program_of
    monkeypatch.setattr(ours, "program_of", lambda _net, x, any_batch: written(other, x, any_batch))
    with pytest.raises(ValueError, match="ONNX Runtime differs from torch on the example by"):
        bp.to_onnx(net, path, example)
    assert not list(tmp_path.iterdir())
