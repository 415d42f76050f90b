"""A run from its fit to its model, by the command line alone: truth, resumption, repetition, and every refusal."""

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.command import FIT, MINE, bayesprune, inside, refused

import bayesprune as bp
from bayesprune import data, nets
from bayesprune.reporting.units import size
from bayesprune.runs.folder import RunFolder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder with a finished run, and what each command on it said."""
    with inside(tmp_path_factory.mktemp("runs")) as folder:
        rules = ("--rule", "fc1.weight=SparseVD(Block(4, 1))", "--rule", "fc2.weight=SparseVD()")
        told = {
            "fit": bayesprune(*FIT, *rules, "--pretrain", "2", "--epochs", "4", "--prune", "Cubic(keep=0.3)", "--json"),
            "masks": bayesprune("masks", "run", "--keep", "0.2", "--json"),
            "sweep": bayesprune("sweep", "run", "--keep", "0.2", "--saliency", "snr", "--json"),
            "report": bayesprune("report", "run", "--draws", "3", "--html", "page.html", "--json"),
            "export": bayesprune("export", "run", "--format", "fc1=BSR(4, 1)", "--json"),
            "bench": bayesprune("bench", "run", "--budget", "0.02", "--no-rivals", "--json"),
            "info": bayesprune("info", "run", "--json"),
            "model": bayesprune("info", "run/model.safetensors", "--json"),
        }
        yield folder, {name: done.json for name, done in told.items()}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "mine.py").write_text(MINE)
    with inside(tmp_path):
        yield tmp_path


def tensors(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "posterior.safetensors")


def same(a: str, b: str) -> bool:
    one, two = tensors(a), tensors(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# --- the whole path ---------------------------------------------------------------------------------------------------


def test_the_run_folder_holds_what_its_commands_wrote(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, told = runs
    files = {file.name for file in (folder / "run").iterdir()}
    assert files == {
        *(".lock", "recipe.toml", "fit.json", "dense.safetensors", "control.safetensors"),
        *("posterior.safetensors", "masks.safetensors"),
        *("sweep.json", "sweep.png", "report.json", "plan.json", "model.safetensors"),
    }
    for name in ("sweep", "report"):
        assert json.loads((folder / "run" / f"{name}.json").read_text()) == told[name]
    assert json.loads((folder / "run" / "plan.json").read_text()) == told["export"]
    assert "<html" in (folder / "page.html").read_text()[:200].lower()


def test_the_page_says_what_it_is_of_and_has_recipe_curve_and_load_line(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, told = runs
    page = html.unescape((folder / "page.html").read_text())
    assert "<h1>mlp(64, (20,), 10) on digits, pruned to 19." in page and "Run run, " in page
    assert (folder / "run" / "recipe.toml").read_text().strip() in page
    assert 'net = bp.load("run/model.safetensors")  # needs neither Pyro nor pickle' in page
    point = next(p for p in told["sweep"]["points"] if p["saliency"] == "snr")
    assert f"snr, {point['kept']:.2%} kept, {size(point['nbytes'])}: error {point['error']:.2%}" in page  # on val
    row = next(m for m in told["report"]["models"] if m["name"] == "posterior mean, pruned")
    assert (
        f"this net, on other examples, {row['kept']:.2%} kept, {size(row['nbytes'])}: error {row['error']:.2%}" in page
    )


def test_masks_keep_what_was_asked_of_what_the_schedule_left(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, told = runs
    masks = load_file(folder / "run" / "masks.safetensors")
    kept, entries = sum(int(m.sum()) for m in masks.values()), sum(m.numel() for m in masks.values())
    assert entries == 64 * 20 + 20 * 10 and abs(kept - 0.2 * entries) <= 4
    assert (told["masks"]["kept"], told["masks"]["entries"]) == (kept, entries)
    assert abs(told["fit"]["kept"] - 0.3) <= 4 / entries
    blocks = masks["fc1.weight"].reshape(5, 4, 64)
    assert bool((blocks == blocks[:, :1]).all())
    posterior = tensors(str(folder / "run"))
    left = {name: next(x for n, x in posterior.items() if n.endswith(f"{name}.kept")) for name in masks}
    assert not bool((masks["fc2.weight"] & ~left["fc2.weight"]).any())


def test_the_model_is_the_masked_posterior_mean_and_the_report_its_error(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, told = runs
    model = bp.load(folder / "run" / "model.safetensors")
    masks = load_file(folder / "run" / "masks.safetensors")
    posterior = tensors(str(folder / "run"))
    net = nets.mlp(64, (20,), 10).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            loc = next(x for n, x in posterior.items() if n.endswith((f"{name}.loc", f"_rest.{name}")))
            parameter.copy_(loc * masks.get(name, torch.ones(())))
        x, y = data.digits().test.tensors
        assert torch.allclose(model(x), net(x), atol=1e-4)
        error = float((net(x).argmax(-1) != y).double().mean())
    row = next(m for m in told["report"]["models"] if m["name"] == "posterior mean, pruned")
    assert row["error"] == pytest.approx(error, abs=1e-9)
    points = {point["saliency"]: point for point in told["sweep"]["points"]}
    assert set(points) == {"unpruned", "snr"}
    x, y = data.digits().val.tensors
    with torch.no_grad():
        assert points["snr"]["error"] == pytest.approx(float((net(x).argmax(-1) != y).double().mean()), abs=1e-9)


def test_the_forced_format_is_in_the_file_and_sizes_are_the_files(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, told = runs
    size = (folder / "run" / "model.safetensors").stat().st_size
    assert told["export"]["weights"]["fc1.weight"]["format"] == "BSR(4, 1)"
    assert told["model"]["layers"]["fc1"]["format"] == "BSR(4, 1)" and told["model"]["loads_alone"]
    assert told["export"]["bytes"] == told["model"]["bytes"] == told["info"]["files"]["model.safetensors"] == size
    parts = [*told["model"]["layers"].values(), *told["model"]["tensors"].values()]
    header = int.from_bytes((folder / "run" / "model.safetensors").read_bytes()[:8], "little")
    assert sum(part["bytes"] for part in parts) == size - header - 8
    assert told["bench"]["shape"] == [64, 1, 8, 8] and told["bench"]["speedup"] > 0


def test_export_to_a_compressed_file(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, told = runs
    with inside(folder):
        done = bayesprune("export", "run", "--format", "fc1=BSR(4, 1)", "--compress", "--out", "small", "--json")
        found = bayesprune("info", "small", "--json").json
        shown = bayesprune("info", "small").out
    assert done.json["bytes"] == found["bytes"] == (folder / "small").stat().st_size < told["export"]["bytes"] / 3
    assert found["compressed"] and found["loads_alone"] and f"{found['dense_bytes']:,}" in shown
    parts = [entry["bytes"] for entry in (*found["layers"].values(), *found["tensors"].values())]
    assert 0.5 * found["bytes"] < sum(parts) < found["bytes"]
    was, now = bp.load(folder / "run" / "model.safetensors"), bp.load(folder / "small")
    x = torch.randn(4, 1, 8, 8)
    assert 0 < float((was(x) - now(x)).abs().max()) < 0.5 * float(was(x).abs().max())


def test_export_in_the_bits_that_the_posterior_bears(runs: tuple[Path, dict[str, Any]]) -> None:
    _, told = runs
    bears = {row["name"]: row["bits"] for row in told["report"]["weights"]}
    for asked in ("4", "posterior"):
        exported = bayesprune("export", "run", "--bits", asked, "--out", "bits.safetensors", "--json").json
        for name in ("fc1.weight", "fc2.weight"):
            width = 4 if asked == "4" or bears[name] <= 4 else 8
            tried = [label for label in exported["weights"][name]["seconds"] if label != "dense"]
            assert tried and all(f"bits={width}" in label for label in tried)
    assert "--bits is 8, 4 or posterior; got '5'" in refused("export", "run", "--bits", "5")


def test_info_tells_the_run(runs: tuple[Path, dict[str, Any]]) -> None:
    _, told = runs
    info = told["info"]
    assert info["finished"] and info["fit"]["epoch"] == 4 and info["older_than_masks"] == []
    assert info["masks"]["choice"]["keep"] == 0.2 and info["masks"]["kept"] == told["masks"]["kept"]
    assert info["recipe"]["rules"] == ["fc1.weight=SparseVD(Block(4, 1))", "fc2.weight=SparseVD()"]
    assert info["recipe"]["versions"]["torch"] == torch.__version__


def test_other_masks_make_what_came_from_the_first_out_of_date(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = runs
    before = (folder / "run" / "masks.safetensors").read_bytes()
    assert bayesprune("masks", "run", "--keep", "0.2").code == 0  # the same again
    assert bayesprune("info", "run", "--json").json["older_than_masks"] == []
    by_rule, by_snr = (bayesprune("masks", "run", *how, "--json").json for how in ((), ("--snr", "0.3")))
    assert by_rule["choice"] == {"snr": None} and 0 < by_snr["kept"] <= by_rule["kept"]
    assert set(bayesprune("info", "run", "--json").json["older_than_masks"]) == {
        *("model.safetensors", "plan.json", "report.json")
    }
    (folder / "run" / "masks.safetensors").write_bytes(before)


def test_a_rival_run_stands_in_the_report(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = runs
    prune = ("--prune", "Cubic(keep=0.2, saliency=magnitude)")
    rule = ("--rule", "fc*.weight=Deterministic()")
    assert bayesprune(*FIT, *rule, "--epochs", "2", *prune, "--out", "magnitude").code == 0
    assert bayesprune("masks", "magnitude", "--keep", "0.2", "--saliency", "magnitude").code == 0
    found = bayesprune("report", "run", "--draws", "2", "--rival", "magnitude", "--json").json
    row = next(m for m in found["models"] if m["name"] == "magnitude")
    assert abs(row["kept"] - 0.2) <= 4 / 1480
    curve = bayesprune("sweep", "run", "magnitude", "--keep", "0.1", "--saliency", "magnitude", "--json").json
    assert {point["net"] for point in curve["points"]} == {0, 1}
    assert bayesprune("masks", str(folder / "run"), "--keep", "0.2").code == 0


# --- the same again, bit for bit --------------------------------------------------------------------------------------


def test_a_recipe_repeats_its_run_bit_for_bit(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = runs
    assert bayesprune("fit", "run/recipe.toml", "--out", "again").code == 0
    assert same("run", "again")
    recipes = [(folder / name / "recipe.toml").read_text() for name in ("run", "again")]
    assert recipes[0] == recipes[1]
    assert bayesprune("fit", "run/recipe.toml", "--seed", "1", "--out", "other").code == 0
    assert not same("run", "other")


def test_a_killed_run_goes_on_with_the_same_command_and_two_at_once_are_refused(here: Path) -> None:
    command = (*FIT, "--epochs", "12", "--pretrain", "1", "--prune", "Cubic(keep=0.3)", "--out", "killed")
    code = "from bayesprune.cli import main; main()"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code, *command], env=env, stderr=subprocess.PIPE) as child:
        try:
            assert _reaches(here / "killed" / "progress.json", "fitting the posterior", 2, child)
            child.send_signal(signal.SIGSTOP)
            assert "another bayesprune is at work in killed/" in refused(*command)
        finally:
            child.kill()
    line = refused("masks", "killed")
    assert "not finished (fitting the posterior, epoch" in line and "bayesprune fit --out killed" in line
    assert "another run (lr 0.01, not 0.02)" in refused(*command, "--lr", "0.02")
    resumed = bayesprune(*command)
    assert resumed.code == 0 and "going on with killed/" in resumed.err
    assert bayesprune(*command[:-1], "whole").code == 0
    assert same("killed", "whole")
    assert not (here / "killed" / "checkpoints").exists()


def _reaches(progress: Path, stage: str, epoch: int, child: "subprocess.Popen[bytes]") -> bool:
    """Wait until a run has done so many epochs of a stage; False where it ends or a minute and a half passes first."""
    until = time.monotonic() + 90
    while time.monotonic() < until and child.poll() is None:
        if progress.exists() and (at := json.loads(progress.read_text()))["stage"] == stage and at["epoch"] >= epoch:
            return True
        time.sleep(0.005)
    return False


def test_ctrl_c_keeps_the_last_epoch_and_says_how_to_go_on(here: Path) -> None:
    command = ("fit", "--net", "mine:make", "--data", "mine:impatient", "--epochs", "4", "--no-control")
    stopped = bayesprune(*command)
    assert stopped.code == 130, stopped.err
    assert "bayesprune fit --out run --trust goes on with it" in stopped.err and "Traceback" not in stopped.err
    state = bayesprune("info", "run", "--json").json
    assert not state["finished"] and re.match(r"fitting the posterior, epoch \d of 4", state["reached"])
    assert bayesprune("fit", "--out", "run", "--trust").code == 0
    assert bayesprune("info", "run", "--json").json["finished"]


# --- nets and data of one's own ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["mine:classes", "mine:reals"])
def test_own_net_and_data(here: Path, source: str) -> None:
    fitted = bayesprune("fit", "--net", "mine:make(width=3)", "--data", source, "--epochs", "2", "--lr", "0.01")
    assert fitted.code == 0, fitted.err
    assert "the dense net was not trained" in fitted.err
    assert "next: bayesprune masks run --trust" in fitted.out
    assert bayesprune("masks", "run", "--keep", "0.5", "--trust").code == 0
    found = bayesprune("report", "run", "--draws", "2", "--json", "--trust").json
    assert ("rmse" in found["models"][0]) == (source == "mine:reals")
    assert bayesprune("export", "run", "--json", "--trust").json["weights"]["0.weight"]["kept"] == 6
    assert bayesprune("fit", "--net", "mine:NET", "--data", source, "--epochs", "1", "--out", "as-it-is").code == 0


def test_ones_own_method_by_rule_and_ranking(here: Path) -> None:
    rule = ("--rule", "*.weight=mine:Mine(Block(1, 1), init_log_scale=-3)")
    own = ("fit", "--net", "mine:make", "--data", "mine:classes", "--epochs", "1", *rule)
    assert bayesprune(*own, "--prune", "Cubic(keep=0.5, saliency=mine:score)").code == 0
    told = bayesprune("masks", "run", "--keep", "0.25", "--saliency", "mine:score", "--json", "--trust").json
    assert told["kept"] == 3 and told["weights"]["0.weight"]["method"].startswith("Mine(")
    del sys.modules["mine"]  # a module's own draws come first where it is imported
    assert bayesprune("fit", "run/recipe.toml", "--trust", "--out", "again").code == 0
    assert same("run", "again")


def test_what_a_run_folder_names_is_run_only_where_one_says_so(here: Path) -> None:
    """A recipe of a stranger's may name any function of any module."""
    assert bayesprune(*FIT, "--epochs", "1").code == 0
    assert bayesprune("masks", "run", "--keep", "0.5").code == 0
    assert bayesprune("export", "run").code == 0
    recipe = (here / "run" / "recipe.toml").read_text()
    commands = [
        *(("masks", "run", "--keep", "0.5"), ("sweep", "run", "--keep", "0.5"), ("report", "run"), ("export", "run")),
        *(("bench", "run"), ("report", "other", "--rival", "run"), ("sweep", "other", "run")),
        *(("fit", "run/recipe.toml", "--out", "new"), ("fit", "run/recipe.toml", "--seed", "1", "--out", "new")),
        ("fit", "--out", "unfinished"),
    ]
    for name in ("other", "unfinished"):
        shutil.copytree(here / "run", here / name)
    (here / "unfinished" / "posterior.safetensors").unlink()
    ran = "os:system('echo ran > ran')"
    forged = {
        "net": re.sub("(?m)^net = .*$", f'net = "{ran}"', recipe),
        "data": re.sub("(?m)^data = .*$", f'data = "{ran}"', recipe),
        "rules": re.sub(r"(?ms)^rules = .*?^\]$", f'rules = ["*={ran}"]', recipe),
        "prune": f'prune = "{ran}"\n{recipe}',
    }
    for name, text in forged.items():
        assert text != recipe
        for folder in ("run", "unfinished"):
            (here / folder / "recipe.toml").write_text(text)
        for command in commands:
            if command[0] == "bench" and name in ("rules", "prune"):  # it runs none of them
                continue
            line = refused(*command)
            assert "runs code that is not bayesprune's" in line and name in line and "--trust" in line, command
        assert bayesprune("info", "run").code == 0
    assert not (here / "ran").exists() and not (here / "new").exists()
    (here / "run" / "recipe.toml").write_text(forged["net"])
    assert "got int" in refused("masks", "run", "--keep", "0.5", "--trust")
    assert (here / "ran").exists()
    (here / "ran").unlink()
    given = ("--net", "mlp(64, (20,), 10)")
    assert bayesprune("bench", "run", *given, "--budget", "0.02", "--no-rivals").code == 0
    assert bayesprune("fit", "run/recipe.toml", *given, "--out", "new").code == 0
    assert not (here / "ran").exists()


def test_a_run_whose_net_has_changed_says_so(here: Path) -> None:
    assert bayesprune("fit", "--net", "mine:make", "--data", "mine:classes", "--epochs", "1").code == 0
    (here / "mine.py").write_text(MINE.replace("nn.Linear(4, width)", "nn.Linear(4, width + 1)"))
    sys.modules.pop("mine")
    line = refused("masks", "run", "--keep", "0.5", "--trust")
    assert "does not fit the recipe's net, whose code may have changed" in line


def test_a_fit_starts_at_a_state_dict_whose_checksum_the_recipe_keeps(here: Path) -> None:
    net = nets.mlp(64, (20,), 10)
    torch.save(net.state_dict(), "net.pt")
    assert bayesprune(*FIT, "--epochs", "1", "--start", "net.pt").code == 0
    dense = load_file("run/dense.safetensors")
    assert all(torch.equal(dense[name], p) for name, p in net.named_parameters())
    torch.save(nets.mlp(64, (20,), 10).state_dict(), "net.pt")
    assert "its checksum differs" in refused("fit", "run/recipe.toml", "--out", "other")
    torch.save(nets.mlp(64, (21,), 10).state_dict(), "net.pt")
    assert "does not fit net 'mlp(64, (20,), 10)'" in refused(*FIT, "--start", "net.pt", "--out", "other")
    assert not Path("other").exists()


# --- what is refused, in one line -------------------------------------------------------------------------------------


def test_another_run_takes_another_folder_where_none_is_named(here: Path) -> None:
    assert bayesprune(*FIT, "--epochs", "1", "--no-control").code == 0
    before = (here / "run" / "posterior.safetensors").read_bytes()
    for number, seed in ((2, "1"), (3, "2")):
        found = bayesprune(*FIT, "--epochs", "1", "--no-control", "--seed", seed, "--json")
        assert found.code == 0 and f"run/ holds another run: this one goes to run-{number}/" in found.err
        assert found.json["folder"] == f"run-{number}"
    assert "run-2/ holds this run, finished" in refused(*FIT, "--epochs", "1", "--no-control", "--seed", "1")
    assert (here / "run" / "posterior.safetensors").read_bytes() == before
    assert sorted(path.name for path in here.glob("run*")) == ["run", "run-2", "run-3"]


def test_a_finished_run_is_replaced_only_when_asked_and_only_by_one_that_can_run(here: Path) -> None:
    assert bayesprune(*FIT, "--epochs", "1").code == 0
    before = (here / "run" / "posterior.safetensors").read_bytes()
    assert "--overwrite" in refused(*FIT, "--epochs", "1")
    assert "another run (epochs 1, not 2)" in refused(*FIT, "--epochs", "2", "--out", "run")
    assert "matches no parameter" in refused(*FIT, "--rule", "fc9=SparseVD()", "--overwrite")
    assert (here / "run" / "posterior.safetensors").read_bytes() == before
    assert bayesprune("masks", "run", "--keep", "0.5").code == 0
    assert bayesprune(*FIT, "--epochs", "2", "--overwrite").code == 0
    assert bayesprune("info", "run", "--json").json["fit"]["epoch"] == 2
    assert not (here / "run" / "masks.safetensors").exists()


def test_a_folder_of_other_files_is_left_alone(here: Path) -> None:
    (here / "papers").mkdir()
    (here / "papers" / "notes.txt").write_text("mine")
    for more in ((), ("--overwrite",)):
        assert "holds files and no run" in refused(*FIT, "--out", "papers", *more)
    assert [file.name for file in (here / "papers").iterdir()] == ["notes.txt"]
    assert "is a file" in refused(*FIT, "--out", "mine.py")


BAD_COMMANDS = {
    "masks, no folder": (("masks", "nowhere"), "bayesprune fit --out nowhere makes one"),
    "masks, no run": (("masks", "empty"), "holds no run"),
    "masks, a file": (("masks", "page.html"), "is a file"),
    "masks, keep": (("masks", "run", "--keep", "0"), "(0, 1]"),
    "masks, both": (("masks", "run", "--keep", "0.1", "--snr", "1"), "not both"),
    "masks, saliency": (("masks", "run", "--saliency", "magnitud"), "did you mean magnitude?"),
    "masks, scope": (("masks", "run", "--keep", "0.1", "--scope", "all"), "--scope is global or layer"),
    "sweep, keep": (("sweep", "run", "--keep", "7"), "(0, 1]"),
    "sweep, part": (("sweep", "run", "--on", "all"), "val and test"),
    "sweep, corruption": (("sweep", "run", "--corruption", "fog"), "gaussian_noise"),
    "sweep, no run": (("sweep", "run", "nowhere"), "there is no folder 'nowhere'"),
    "report, no masks": (("report", "bare"), "bayesprune masks bare --keep"),
    "report, page": (("report", "run", "--html", "nowhere/page.html"), "no folder nowhere"),
    "report, rival": (("report", "run", "--rival", "nowhere"), "there is no folder 'nowhere'"),
    "export, no masks": (("export", "bare"), "bayesprune masks bare --keep"),
    "export, format": (("export", "run", "--format", "fc1=BSR(0, 1)"), "h to be an integer ≥ 1"),
    "export, no format": (("export", "run", "--format", "fc1=SparseVD()"), "BSR, CSR, Dense"),
    "export, glob": (("export", "run", "--format", "conv*=CSR()"), "matches no masked weight"),
    "export, out": (("export", "run", "--out", "nowhere/m.safetensors"), "no folder nowhere"),
    "export, a folder": (("export", "run", "--out", "run"), "--out run is a folder: name a file in it"),
    "export, not finished": (("export", "unfinished"), "is not finished (no epoch is done)"),
    "bench, no model": (("bench", "bare"), "bayesprune export bare"),
    "bench, no file": (("bench", "nowhere.safetensors"), "bayesprune export writes one"),
    "bench, no shape": (("bench", "run/model.safetensors"), "--example 64x784"),
    "info, nothing": (("info", "nowhere"), "name a run folder or a .safetensors file"),
    "info, no run": (("info", "empty"), "holds no run"),
    "info, no model": (("info", "page.html"), "tells of more than a file of"),
    "info, no manifest": (("info", "run/dense.safetensors"), "manifest"),
    "damaged": (("masks", "damaged"), "posterior.safetensors is damaged"),
    "no such command": (("prune",), "No such command 'prune'"),
}


@pytest.fixture(scope="module")
def bare(runs: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = runs
    (folder / "empty").mkdir()
    for name, files in {
        "bare": ("recipe.toml", "fit.json", "dense.safetensors", "posterior.safetensors"),
        "damaged": ("recipe.toml", "fit.json", "dense.safetensors", "posterior.safetensors"),
        "unfinished": ("recipe.toml",),
    }.items():
        (folder / name).mkdir()
        for file in files:
            (folder / name / file).write_bytes((folder / "run" / file).read_bytes())
    file = folder / "damaged" / "posterior.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_a_command_that_cannot_be_is_refused_in_one_line(case: str) -> None:
    args, says = BAD_COMMANDS[case]
    assert says in refused(*args)


def test_a_command_on_a_run_that_is_written_to_is_refused(runs: tuple[Path, dict[str, Any]]) -> None:
    with RunFolder(Path("run")).locked():
        for command in ("masks", "sweep", "report", "export"):
            assert "another bayesprune is at work" in refused(command, "run")


def test_a_fit_that_diverges_is_exit_code_1(here: Path) -> None:
    done = bayesprune(*FIT, "--epochs", "3", "--lr", "1e30")
    assert done.code == 1 and "bayesprune: the loss is" in done.err and "Traceback" not in done.err


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["demo", "fit", "masks", "sweep", "report", "export", "bench", "info"])
def test_help_has_an_example(command: str) -> None:
    done = bayesprune(command, "--help")
    assert done.code == 0
    assert f"Example: bayesprune {command}" in done.out
    assert ("--json" in done.out) == (command != "demo")


def test_the_command_line_starts_without_torch() -> None:
    code = (
        "import sys, bayesprune.cli; print([m for m in ('torch', 'pyro', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
