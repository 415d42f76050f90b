"""The command line as an impatient user meets it: one clear line and exit code 2, never a traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.command import Done, bayesprune, inside

from bayesprune.reporting.units import size

RUN = [sys.executable, "-c", "from bayesprune.cli import main; main()"]


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # tests share the machine


def in_a_process(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *args], cwd=cwd, env=ONE_THREAD, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, in_a_process(
        "demo", "--epochs", "3", "--seed", "1", "--keep", "0.1", "--out", "run", "--verbose", cwd=folder
    )


def test_demo_writes_model_report_and_picture(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = finished
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (folder / "run").iterdir()) == [
        *("model.safetensors", "report.html", "report.json", "snr.png")
    ]
    assert (folder / "run" / "snr.png").read_bytes()[:4] == b"\x89PNG"
    found = json.loads((folder / "run" / "report.json").read_text())
    assert (found["seed"], found["epochs"], found["keep"]) == (1, 3, 0.1)
    assert found["versions"]["torch"] == torch.__version__
    assert len(found["fit"]["epochs"]) == 3 and not found["fit"]["interrupted"]


def test_demo_prints_the_figures_it_writes(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = finished
    found = json.loads((folder / "run" / "report.json").read_text())
    models = {m["name"]: m for m in found["models"]}
    assert {"dense", "posterior mean, pruned", "posterior predictive, 20 draws", "gradual magnitude"} <= set(models)
    for model in models.values():
        assert f"{model['error']:.2%}" in done.stdout and model["name"] in done.stdout
    for weight in found["weights"]:
        assert weight["name"] in done.stdout and size(weight["choice"]["bytes"]) in done.stdout
    kept = sum(w["kept"] * w["shape"][0] * w["shape"][1] for w in found["weights"])
    assert kept == round(0.1 * (300 * 64 + 100 * 300 + 10 * 100))
    assert models["posterior mean, pruned"]["nbytes"] < 0.5 * models["dense"]["nbytes"]


def test_the_line_that_says_so_loads_the_result(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = finished
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("load it: ")]
    code = line.partition('-c "')[2].rstrip('"')
    loaded = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert loaded.returncode == 0 and "fc1" in loaded.stdout, loaded.stderr


def test_a_folder_that_is_not_empty_asks_for_force(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = finished
    before = (folder / "run" / "report.json").read_bytes()
    with inside(folder):
        refused = bayesprune("demo", "--epochs", "1", "--out", "run")
        assert (folder / "run" / "report.json").read_bytes() == before
        forced = bayesprune("demo", "--epochs", "1", "--keep", "0.1", "--out", "run", "--force")
    assert refused.code == 2 and "--force" in refused.err
    assert forced.code == 0, forced.err


@pytest.fixture(scope="module")
def three_budgets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("budgets")
    with inside(folder):
        return folder / "run", bayesprune("demo", "--epochs", "1", "--out", "run")


def test_the_screen_ends_with_a_headline_five_rows_and_the_page(three_budgets: tuple[Path, Done]) -> None:
    folder, done = three_budgets
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if line.strip()]
    found = json.loads((folder / "report.json").read_text())
    models = {m["name"]: m for m in found["models"]}
    ours, rival = models["posterior mean, pruned"], models["gradual magnitude"]
    assert lines[0].startswith("With 0.50% of the weights, ") and lines[0].endswith(
        f"× smaller, the posterior errs on {ours['error']:.2%}, gradual magnitude on {rival['error']:.2%}, "
        f"the dense control on {models['dense control']['error']:.2%}."
    )
    rows = [line.split("  ")[0].strip() for line in lines[-6:-1]]
    assert rows == ["dense net", "dense control", *(f"posterior, {k}% kept" for k in ("2", "1", "0.5"))]
    assert f"{ours['error']:.2%}" in lines[-2] and f"{rival['error']:.2%}" in lines[-2]
    assert size(ours["nbytes"]) in lines[-2]
    assert lines[-1] == "open run/report.html"
    assert "Verdict" not in done.out and len(lines) <= 10


def test_the_curve_is_that_of_the_files_and_stands_on_the_page(three_budgets: tuple[Path, Done]) -> None:
    folder, _ = three_budgets
    found = json.loads((folder / "report.json").read_text())
    points = found["curve"]["points"]
    cells = {(p["saliency"], p["asked"]) for p in points}
    assert cells == {
        ("unpruned", 1.0),
        *((m, k) for m in ("posterior", "gradual magnitude") for k in (0.02, 0.01, 0.005)),
    }
    last = next(p for p in points if (p["saliency"], p["asked"]) == ("posterior", 0.005))
    assert last["nbytes"] == (folder / "model.safetensors").stat().st_size and found["keep"] == 0.005
    page = (folder / "report.html").read_text()
    assert "Error against size" in page and "<h1>lenet_300_100(inputs=64) on digits, pruned to 0.50%</h1>" in page
    for p in points:
        if p["saliency"] != "unpruned":
            assert f"{p['saliency']}, {p['kept']:.2%} kept, {size(p['nbytes'])}: error {p['error']:.2%}" in page
    assert "bayesprune demo --data digits --keep 0.005 --epochs 1 --seed 0" in page


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--data", "imagenet"], "digits, mnist"),
        (["--keep", "0"], "(0, 1]"),
        (["--keep", "1.5"], "(0, 1]"),
        (["--epochs", "0"], "epochs"),
        (["--device", "tpu9"], "tpu9"),
        (["--out", "a-file"], "is a file"),
        pytest.param(
            ["--device", "cuda"],
            "cuda",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device"),
        ),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, args: list[str], says: str) -> None:
    (tmp_path / "a-file").write_text("")
    with inside(tmp_path):
        done = bayesprune("demo", *args)
    assert done.code == 2
    assert says in done.err and "Traceback" not in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["a-file"]


def test_missing_data_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYESPRUNE_DATA", str(tmp_path / "nowhere"))
    with inside(tmp_path):
        done = bayesprune("demo", "--data", "mnist")
    assert done.code == 2
    assert "BAYESPRUNE_DATA" in done.err and "Traceback" not in done.err


def test_without_out_each_run_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    from bayesprune.runs.demo import claim_folder

    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert [claim_folder(None, False).name for _ in range(2)] == ["bayesprune-demo-1", "bayesprune-demo-2"]
    finally:
        os.chdir(before)


def test_ctrl_c_in_the_fit_keeps_what_was_fitted(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*RUN, "demo", "--epochs", "100000", "--keep", "0.05", "--out", "run"],
        cwd=tmp_path,
        env=ONE_THREAD,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("2/6"):
                break
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=120) == 0, rest
    assert "interrupted" in rest and "Traceback" not in rest
    found = json.loads((tmp_path / "run" / "report.json").read_text())
    assert found["fit"]["interrupted"]
    assert (tmp_path / "run" / "model.safetensors").exists()
