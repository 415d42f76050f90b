"""The GPU benchmark, rehearsed on the CPU; its arithmetic against figures worked out by hand."""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
from support.paths import ROOT

FOLDER = ROOT / "examples" / "benchmarks"
WAYS = ("cuBLAS", "cuBLAS, graph", "torch BSR", "2:4", "ours", "ours, graph")
pytest.importorskip("triton")


@pytest.fixture(autouse=True, scope="module")
def beside_the_program() -> Iterator[None]:
    """The program's own modules can be imported, as they can where it runs."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def own(name: str) -> ModuleType:
    return importlib.import_module(name)


def program(*args: object) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, as a rehearsal needs it: Triton asks once whether to interpret."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / "gpu.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=240)


def said(*args: object) -> tuple[int, str, str]:
    """The program in this process: its exit code, and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["gpu.py", *map(str, args)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            own("gpu").main()
        except SystemExit as ended:
            return int(ended.code or 0), out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def refused(*args: object) -> str:
    """The one line with which the program says no."""
    code, out, err = said(*args)
    assert code == 2 and out == "", (code, out, err)
    (line,) = err.splitlines()
    return line


def figures(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value under a key that holds times, ratios, rates or shares."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key.endswith(("_us", "_ratio")) or key in ("of_bound", "peaks", "limit", "rounds"):
                yield f"{path}.{key}", value
            else:
                yield from figures(value, f"{path}.{key}")
    elif isinstance(part, list):
        for value in part:
            yield from figures(value, path)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "results.json"
    done = program("--out", path, "--rehearse")
    assert done.returncode == 0, done.stderr
    assert "nothing in this file is a measurement" in done.stdout
    return path


def test_a_rehearsal_fills_every_part_and_holds_no_figure(rehearsed: Path) -> None:
    data = json.loads(rehearsed.read_text())
    assert data["rehearsal"] is True
    assert [len(data[part]) for part in ("tests", "host", "layers", "nets", "training")] == [1, 2, 8, 2, 1]
    assert data["notes"] == {}
    held = dict(figures(data))
    assert held and all(value is None for value in held.values()), held
    for cell in data["layers"]:
        ours = cell["ways"]["ours"]
        assert set(cell["ways"]) == {*WAYS, *(("torch BSR, padded",) if cell["tokens"] % cell["block"][0] else ())}
        assert ours["error_of_float64"] < (1e-2 if cell["dtype"] == "bfloat16" else 2e-3)
    assert all(net["packed"] == net["masked"] for net in data["nets"])
    assert all(net["ways"]["sparse"]["error_of_float64"] < 1e-5 for net in data["nets"])
    assert all("error" not in record["ways"]["layer(x)"] for record in data["host"])
    assert "did not end" not in data["runs"][0]["compiled"]


def test_a_second_run_goes_on_where_the_first_stopped(rehearsed: Path, tmp_path: Path) -> None:
    data = json.loads(rehearsed.read_text())
    gone = data["layers"].pop(3)
    data["notes"]["layers"] = "1 of 8 cells are not measured yet"
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))
    done = program("--out", path, "--rehearse", "--part", "layers")
    assert done.returncode == 0, done.stderr
    again = json.loads(path.read_text())
    assert again["layers"][:-1] == data["layers"]
    last = again["layers"][-1]
    setting = ("dtype", "weight", "block", "sparsity", "tokens")
    assert [last[key] for key in setting] == [gone[key] for key in setting]
    assert (gone["run"], last["run"], len(again["runs"])) == (0, 1, 2)
    assert again["notes"] == {}
    assert [again[part] for part in ("tests", "host", "nets")] == [data[part] for part in ("tests", "host", "nets")]


def test_refusals(rehearsed: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    if not torch.cuda.is_available():
        told = refused("--out", out)
        assert "gpu.py: expected a CUDA GPU of compute capability 8.0 or newer: torch finds no CUDA GPU here" in told
        assert told.endswith("--rehearse runs the same on the CPU, without times")
        assert not out.exists()
    assert "cannot write" in refused("--out", tmp_path / "nowhere" / "results.json", "--rehearse")
    out.write_text("{}")
    assert "holds something else" in refused("--out", out, "--rehearse")
    assert out.read_text() == "{}"
    out.write_text(json.dumps(json.loads(rehearsed.read_text()) | {"rehearsal": False}))
    assert f"{out} holds measurements" in refused("--out", out, "--rehearse")
    assert "cannot read" in refused("--show", tmp_path / "none.json")
    for wrong in ([], ["--out", out, "--show", out], ["--out", out, "--budget", 0], ["--out", out, "--part", "all"]):
        assert said(*wrong)[0] == 2


def test_figures_of_another_machine_are_not_added_to(tmp_path: Path) -> None:
    results = own("on_gpu.results")
    path, machine = tmp_path / "results.json", {"device": "NVIDIA H200", "torch": "2.11.0"}
    results.Results(path, machine, {"date": "one"}, rehearsal=False)
    results.Results(path, machine, {"date": "two"}, rehearsal=False)
    assert [run["date"] for run in json.loads(path.read_text())["runs"]] == ["one", "two"]
    with pytest.raises(results.RefusedError, match=r"measured with device NVIDIA H200, and this is NVIDIA A100"):
        results.Results(path, {**machine, "device": "NVIDIA A100"}, {}, rehearsal=False)


def test_a_device_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = own("gpu")
    why = "Tesla V100 has compute capability 7.0"
    monkeypatch.setattr("bayesprune.sparse.gpu.devices.obstacle", lambda device: why)
    with pytest.raises(gpu.RefusedError, match=r"8\.0 or newer: Tesla V100 has compute capability 7\.0; --rehearse"):
        gpu._refuse_where_it_cannot_run(rehearse=False)
    with pytest.raises(gpu.RefusedError, match=r"^Tesla V100 has compute capability 7\.0$"):
        gpu._refuse_where_it_cannot_run(rehearse=True)
    why = None
    gpu._refuse_where_it_cannot_run(rehearse=False)


def test_bounds_by_hand() -> None:
    """4096², 90 % of 64×16 blocks gone: 1,638 blocks of 1,024 entries."""
    bounds = own("on_gpu.bounds")
    peaks = bounds.Peaks(flops=100e12, memory=1e12, l2=2e12)
    shape = bounds.Shape(4096, 4096, 512)
    dense = bounds.dense_bound(shape, peaks)
    assert dense.memory == pytest.approx((2 * 4096**2 + 2 * 2 * 512 * 4096) / 1e12)
    assert dense.arithmetic == pytest.approx(2 * 4096**2 * 512 / 100e12) and dense.limit == "arithmetic"
    sparse = bounds.block_bound(shape, (64, 16), 1638, peaks)
    assert sparse.arithmetic == pytest.approx(2 * 1638 * 1024 * 512 / 100e12)
    assert sparse.memory == pytest.approx((1638 * 1024 * 2 + 4 * (1638 + 65) + 2 * 2 * 512 * 4096) / 1e12)
    # two tiles of 256 tokens: each block is read twice, and its 16 inputs once for each token
    assert sparse.l2 == pytest.approx(1638 * 16 * (512 + 2 * 64) * 2 / 2e12)
    assert sparse.seconds == max(sparse.memory, sparse.arithmetic, sparse.l2)
    few = bounds.block_bound(bounds.Shape(4096, 4096, 1), (64, 16), 1638, peaks)
    assert few.limit == "memory"
    assert bounds.known_peaks("NVIDIA H100 80GB HBM3").memory == 3.35e12
    assert bounds.known_peaks("Some other device") is None


@pytest.mark.parametrize(
    "tokens, rows, speedups", [(1, 64, (5.0, 9.9, 19.8)), (512, 16, (0.6, 1.1, 2.3)), (512, 64, (1.9, 3.9, 7.8))]
)
def test_bounds_over_cublas_on_an_h200(tokens: int, rows: int, speedups: tuple[float, ...]) -> None:
    bounds = own("on_gpu.bounds")
    peaks, shape = bounds.known_peaks("NVIDIA H200"), bounds.Shape(4096, 4096, tokens)
    for kept, wanted in zip((0.2, 0.1, 0.05), speedups, strict=True):
        blocks = round(kept * 4096**2 / (rows * 16))
        sparse = bounds.block_bound(shape, (rows, 16), blocks, peaks)
        assert bounds.dense_bound(shape, peaks).seconds / sparse.seconds == pytest.approx(wanted, abs=0.06)


def test_the_pages_table_of_bounds_is_the_programs() -> None:
    code, out, _ = said("--bounds", "H200")
    table = out.partition("gone:")[2].strip().partition("\n\n")[0]
    assert code == 0 and table.startswith("| tokens |") and table.count("\n") == 8
    assert table in (FOLDER.parents[1] / "docs" / "gpu.md").read_text()


def test_ratios_are_those_of_a_round() -> None:
    """A device that slows down from round to round slows every way alike; what is hopeless sits out."""
    clock = own("on_gpu.clock")
    speed = {"dense": 4.0, "ours": 1.0, "dense, graph": 3.0, "ours, graph": 1.5, "slow": 500.0}
    turns: list[str] = []

    class Scripted(clock.Clock):
        def __init__(self) -> None:
            self.device = torch.device("cpu")

        def _wall(self, way: Any, calls: int) -> tuple[float, float]:
            return self._device(way, calls) * 2, 1e-6

        def _device(self, way: Any, samples: int) -> float:
            turns.append(way())
            return speed[turns[-1]] * turns.count("dense") * 1e-6

    found = Scripted().race({name: (lambda name=name: name) for name in speed}, budget=0.0, least=5)
    assert turns[10:14] == ["dense", "dense", "ours", "ours"]  # after warming up, a device and a wall time of each
    assert turns[-8:] == [name for name in list(speed)[:4] for _ in range(2)]
    assert [way["rounds"] for way in found.values()] == [5, 5, 5, 5, 3]
    assert found["dense"]["device_ratio"] == [1.0] * 3
    # by the n-th round dense had 1 + 2n turns before its device time, and one more before ours
    assert found["dense"]["device_us"] == pytest.approx([4 * 5, 4 * 7, 4 * 9])
    assert found["ours"]["device_us"] == pytest.approx([6, 8, 10])
    assert found["ours"]["device_ratio"] == pytest.approx([4 * 5 / 6, 4 * 7 / 8, 4 * 9 / 10])
    assert found["ours, graph"]["device_ratio"] == pytest.approx([2.0] * 3)  # over dense in a graph
    assert found["slow"]["device_ratio"][1] < 1 / 100


def test_the_l2_kernel_reads_all_it_says(tmp_path: Path) -> None:
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); from on_gpu.machine import l2_sums;"
        "x = torch.arange(3 * 4096, dtype=torch.float32) % 7; assert (l2_sums(x, 5) == x.sum()).all()"
    )
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code, str(FOLDER)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def measured(rehearsed: Path) -> dict[str, Any]:
    """The rehearsal's file with figures put in: 512 tokens, twice and a half as fast as cuBLAS, at 10 µs."""
    data = json.loads(rehearsed.read_text()) | {"rehearsal": False}
    cell = {"dtype": "bfloat16", "weight": [4096, 4096], "block": [64, 64], "sparsity": 0.9, "tokens": 512, "run": 0}
    times = {"wall_us": [1, 1, 1], "host_us": [1, 1, 1], "wall_ratio": [1, 1, 1]}
    ways = {
        "cuBLAS": {**times, "device_us": [25, 25, 25], "device_ratio": [1, 1, 1]},
        "ours": {**times, "device_us": [9, 10, 11], "device_ratio": [2.4, 2.5, 2.6], "error_of_float64": 4e-3},
        "torch BSR": {"error": "RuntimeError: no"},
    }
    data["layers"] = [{**cell, "ways": ways, "bound_us": 5.58, "limit": "l2", "of_bound": 0.558}]
    return data


def test_tables_say_what_is_held(rehearsed: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(measured(rehearsed)))
    code, out, _ = said("--show", path)
    assert code == 0 and "rehearsal" not in out.partition("\n")[0]
    assert "| 512 | 2.50×, 56% |" in out
    held = [line for line in out.splitlines() if line.startswith(("| ≥", "| within"))]
    assert [line.split("|")[-2].strip() for line in held] == ["yes", "no", "yes"]
    assert "2.2× cuBLAS" in held[0] and "least 2.50×, median 2.50×, of 1" in held[0]
    assert "60 % of the bound" in held[1] and "56%" in held[1]
    assert "`RuntimeError: no`" in out


def test_tests_run_in_a_process_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, results = own("on_gpu.suite"), own("on_gpu.results")
    folder = tmp_path / "tests"
    folder.mkdir()
    (tmp_path / "conftest.py").write_text("import a_package_that_is_not_there")
    (folder / "test_some.py").write_text(
        "import os, pytest\n\ndef test_good(): assert 'TRITON_INTERPRET' not in os.environ\n\n"
        "def test_bad(): assert False\n\n@pytest.mark.skip(reason='no GPU')\ndef test_left(): pass\n"
    )
    monkeypatch.setattr(suite, "TESTS", folder)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    file = results.Results(tmp_path / "results.json", {}, {}, rehearsal=False)
    suite.run(file, until=0.0)
    suite.run(file, until=0.0)  # what is there is kept
    (record,) = json.loads(file.path.read_text())["tests"]
    counts = {key: record[key] for key in ("passed", "failed", "errors", "skipped", "exit")}
    assert counts == {"passed": 1, "failed": 1, "errors": 0, "skipped": 1, "exit": 1}
    assert [name.rpartition("::")[2] for name in record["not_passed"]] == ["test_bad"]
    assert record["skipped_because"] == ["no GPU"]
