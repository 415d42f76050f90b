"""The benchmark times what it says it does, and answers bad input in a line."""

import json
import runpy
import sys
import time

import pytest
import torch
from support.paths import ROOT
from torch import nn
from typer.testing import CliRunner

from bayesprune.cli import app
from bayesprune.sparse import BSR, CSR, export, save
from bayesprune.sparse.bench.end_to_end import EndToEnd, Layer, compare, spent
from bayesprune.sparse.bench.products import Setting, bench, dense_twin, random_mask
from bayesprune.sparse.bench.tables import of_model
from bayesprune.sparse.layers.linear import SparseLinear

pytest.importorskip("llvmlite")


def test_masks_keep_the_share_that_was_asked_for_in_whole_blocks():
    mask = random_mask(Setting(64, 96, 8, 0.75, BSR(16, 8)))
    grid = mask.view(4, 16, 12, 8)
    assert int(mask.sum()) == 64 * 96 // 4
    assert bool((grid.all(3).all(1) == grid.any(3).any(1)).all())
    assert int(random_mask(Setting(10, 10, 8, 0.9, CSR())).sum()) == 10


def test_all_ways_that_are_installed_are_timed():
    found = bench(Setting(64, 64, 8, 0.5, BSR(16, 16)), budget=0.02)
    assert {"dense", "ours", "torch CSR @ x", "torch BSR @ x", "torch linear(x, BSR)", "scipy BSR"} <= set(
        found.seconds
    )
    assert found.ideal == pytest.approx(2.0)
    assert found.speedup("dense") == 1
    dense = 2e-9 * 64 * 64 * 8 / found.seconds["dense"]
    assert found.gflops("dense") == pytest.approx(dense)
    threads = torch.get_num_threads()
    bench(Setting(32, 32, 4, 0.5, CSR(), threads=threads + 1), rivals=False, budget=0.01)
    assert torch.get_num_threads() == threads


def test_a_dtype_that_the_kernel_lacks_is_named():
    with pytest.raises(ValueError, match=r"does not take BSR\(4, 4\) of torch.float64"):
        bench(Setting(16, 16, 4, 0.5, BSR(4, 4), torch.float64))


def sparse_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(1024, 32), nn.ReLU()).eval()
    masks = {
        "0.weight": (torch.rand(1, 1, 3, 3) < 0.5).repeat(16, 16, 1, 1),
        "3.weight": (torch.rand(2, 1024) < 0.3).repeat_interleave(16, 0),
    }
    x = torch.randn(2, 16, 8, 8)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export(net, {}, masks, example=x, formats={"0": BSR(16, 16), "3": BSR(16, 1)}), x


def test_the_dense_twin_computes_the_same():
    sparse, x = sparse_net()
    twin = dense_twin(sparse)
    with torch.no_grad():
        torch.testing.assert_close(twin(x), sparse(x), rtol=1e-4, atol=1e-5)
    assert not any("Sparse" in type(m).__name__ for m in twin.modules())


def test_the_bound_is_amdahls():
    layers = {
        "a": Layer((1, 4), 0.1, {"dense": 3.0, "sparse": 1.0}, inside=6.0),
        "b": Layer((1, 4), 0.1, {"dense": 1.0, "sparse": 2.0}, inside=1.0),
    }
    found = EndToEnd({"dense": 10.0, "sparse": 8.0}, layers, {"dense": {}, "sparse": {}}, 0.0)
    assert found.bound == pytest.approx(10 / (10 - 6 - 1 + 6 / 3 + 1 / 0.5))
    assert found.to_dict()["reached"] == pytest.approx(1.25 / found.bound)
    assert EndToEnd({"dense": 1.0, "sparse": 1.0}, {}, {}, 0.0).bound == 1


def test_each_moment_is_one_modules(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    shared = nn.ReLU()
    net = nn.Sequential(shared, nn.Sequential(nn.Tanh(), nn.Flatten()), shared)
    # 10 readings within the outer: 4 leaves of one tick each, the inner of 5 ticks
    assert spent(net, torch.ones(2, 3), rounds=3) == {"0": 2.0, "1.0": 1.0, "1.1": 1.0, "1": 3.0, "": 4.0}
    net(torch.ones(2, 3))
    assert next(ticks) == 3 * 12  # no hook is left


def test_a_net_against_its_dense_self():
    sparse, x = sparse_net()
    found = compare(sparse, dense_twin(sparse), x, runtime=False, budget=0.05)
    assert {"dense", "sparse"} <= set(found.seconds) and found.apart < 1e-4
    assert list(found.layers) == ["0", "3"]
    conv, linear = found.layers["0"], found.layers["3"]
    assert conv.shape == (2, 16, 8, 8) and set(conv.seconds) == {"dense", "sparse"}
    assert linear.shape == (2, 1024) and {"torch CSR @ x", "scipy BSR"} <= set(linear.seconds)
    assert linear.kept == pytest.approx(int((sparse[3].weight != 0).sum()) / sparse[3].weight.numel())
    assert {"SparseConv2d", "SparseLinear"} <= set(found.spent["sparse"])
    assert {"Conv2d", "Linear"} <= set(found.spent["dense"])
    assert found.bound > 0 and json.dumps(found.to_dict())
    few = compare(sparse, dense_twin(sparse), x, runtime=False, rivals=False, budget=0.01)
    assert set(few.seconds) == set(few.layers["3"].seconds) == {"dense", "sparse"}


def test_onnx_runtime_runs_the_dense_net():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    sparse, x = sparse_net()
    assert compare(sparse, dense_twin(sparse), x, rivals=False, budget=0.02).seconds["onnxruntime dense"] > 0


def test_nets_that_cannot_be_compared():
    with pytest.raises(ValueError, match="one tensor, or logits, got tuple"):
        compare(nn.GRU(3, 4), nn.GRU(3, 4), torch.ones(2, 3), budget=0.01)


def test_the_benchmark_of_whole_nets(monkeypatch, capsys):
    path = ROOT / "examples" / "benchmarks" / "whole_nets.py"
    whole_nets = runpy.run_path(str(path))
    net = nn.Sequential(nn.Linear(40, 33), nn.Conv2d(32, 32, 3), nn.Linear(33, 4))
    masks = whole_nets["random_masks"](net, ("2",), 0.75)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "0.weight": pytest.approx(0.25 * 40 * 33, abs=400),  # 9 blocks, some of them ragged
        "1.weight": 32 * 32 * 9 // 4,
    }
    words = ["--net", "LeNet-300-100", "--batch", "2", "--threads", "1", "--budget", "0.05", "--json"]
    monkeypatch.setattr(sys, "argv", ["whole_nets.py", *words])
    monkeypatch.setattr(
        "bayesprune.sparse.bench.end_to_end.find_spec", lambda name: None
    )  # ONNX Runtime has its own test
    whole_nets["main"]()
    (found,) = json.loads(capsys.readouterr().out)["nets"]
    assert found["batch"] == 2 and set(found["seconds"]) == {"dense", "sparse"} and found["largest_difference"] < 1e-4


def run(*words):
    return CliRunner().invoke(app, ["bench", *words])


def test_the_command_prints_a_table_or_json(tmp_path):
    words = (
        "--shape",
        "64x64",
        "--shape",
        "32x64",
        "--tokens",
        "4",
        "--block",
        "16x1",
        "--budget",
        "0.01",
        "--no-rivals",
    )
    table = run(*words)
    assert table.exit_code == 0, table.output
    assert "geometric mean, 4 tokens, 90% of BSR(16, 1) gone" in table.stdout
    data = json.loads(run(*words, "--json").stdout)
    assert [s["out"] for s in data["settings"]] == [64, 32]
    assert data["settings"][0]["speedup"]["dense"] == 1
    sparse, _ = sparse_net()
    save(sparse, tmp_path / "model.safetensors")
    done = run(str(tmp_path / "model.safetensors"), "--example", "2x16x8x8", "--budget", "0.01")
    assert done.exit_code == 0, done.output
    for said in ("sparse", "apart", "Amdahl's bound", "torch CSR @ x", "SparseConv2d", "GFLOP/s"):
        assert said in done.stdout
    words = (str(tmp_path / "model.safetensors"), "--example", "2x16x8x8", "--budget", "0.01", "--no-rivals", "--json")
    data = json.loads(run(*words).stdout)
    assert data["shape"] == [2, 16, 8, 8] and set(data["seconds"]) == {"dense", "sparse"}
    assert set(data["layers"]) == {"0", "3"} and data["bound"] > 0 and data["peak_gflops"] > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--shape", "64"), "--shape is two numbers"),
        (("--shape", "64xa"), "--shape is written as 64x128"),
        (("--block", "0x4"), "--block is written as"),
        (("--sparsity", "1"), r"in \[0, 1\); got 1.0"),
        (("--dtype", "int4"), "--dtype is one of float32, bfloat16, float16; got 'int4'"),
        (("--bits", "5"), "bits is 8 or 4"),
        (("nowhere.safetensors", "--example", "2x3"), "nowhere.safetensors"),
        (("nowhere.safetensors",), "bayesprune export writes one"),
    ],
)
def test_bad_input_is_a_line(words, says):
    result = run(*words)
    assert isinstance(result.exception, (ValueError, OSError))
    with pytest.raises((ValueError, OSError), match=says):
        raise result.exception


def test_an_input_that_the_net_refuses_is_named(tmp_path):
    sparse, _ = sparse_net()
    save(sparse, tmp_path / "m.safetensors")
    result = run(str(tmp_path / "m.safetensors"), "--example", "2x16x9x8", "--budget", "0.01")
    with pytest.raises(ValueError, match=r"does not take an input of shape \(2, 16, 9, 8\)"):
        raise result.exception


class Own(nn.Module):
    """A class that no file can tell of."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 2)

    def forward(self, x):
        return self.last(self.first(x).relu())


@pytest.mark.filterwarnings("ignore:.*slower than dense")
def test_a_model_of_an_own_class_is_timed_with_its_skeleton(tmp_path, random_masks):
    net = Own()
    masks = random_masks(net, names=["first.weight"])
    path = tmp_path / "own.safetensors"
    save(export(net, {}, masks, example=torch.ones(4, 64), formats={"*": CSR()}), path)
    with pytest.raises(ValueError, match="needs its net"):
        of_model(path, (4, 64), 1, 0.02, rivals=False)
    found = of_model(path, (4, 64), 1, 0.02, rivals=False, net=Own())
    assert set(found.data["layers"]) == {"first"} and found.data["largest_difference"] < 1e-5


def test_a_layer_with_its_activation_is_clocked_alone_inside_the_twin(monkeypatch):
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    packed = SparseLinear(BSR(16, 16).pack(net[0].weight, torch.ones(64, 64).bool()), net[0].bias, "native", "relu")
    sparse = nn.Sequential(packed, nn.Identity(), net[2]).eval()
    times = {"": 1.0, "0": 0.25, "0.0": 2.0, "0.1": 0.25, "1": 0.25, "2": 0.25}
    in_twin = lambda net, *_: times if isinstance(net[0], nn.Sequential) else {"": 1.0}  # noqa: E731
    monkeypatch.setattr("bayesprune.sparse.bench.end_to_end.spent", in_twin)
    found = compare(sparse, dense_twin(sparse), torch.randn(4, 64), runtime=False, rivals=False, budget=0.01)
    assert found.layers["0"].inside == pytest.approx(found.seconds["dense"] * 2.0 / 4.0)


@pytest.mark.parametrize(("device", "told"), [("cuda:77", "expected a CUDA GPU"), ("gpu", "our kernels run on cpu")])
def test_a_device_that_is_not_there_is_refused(device: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        bench(Setting(64, 64, 4, 0.5, BSR(16, 16), device=device))
