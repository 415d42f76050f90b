"""Checkpoints: resumed bit for bit, refused by the difference, whole or not there, and they run no code."""

import errno
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from support.fits import (
    Note,
    assert_same_run,
    checkpointed,
    convolution,
    data,
    fit,
    in_a_process,
    linear,
    same,
    shuffled,
    state,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.fitting.checkpoints import CheckpointWarning
from bayesprune.fitting.plain import from_bytes, to_bytes

GENERATORS = """
import random
import numpy as np
import torch

def generators():
    state = np.random.get_state()
    return random.getstate(), (state[1].tolist(), state[2]), torch.get_rng_state().tolist()

nets = [t.linear() for _ in range(3)]
t.fit(nets[0])  # the very first fit of a process imports rich, which draws a number
before = generators()
t.fit(nets[1], t.shuffled(), epochs=1, checkpoint=folder)
assert generators() == before
random.random(), np.random.rand(), torch.rand(())
moved = generators()
assert all(a != b for a, b in zip(before, moved))
t.fit(nets[2], t.shuffled(), epochs=2, checkpoint=folder)  # resumes, with the saved generators
assert generators() == moved
print("as they were")
"""


def test_a_seeded_fit_leaves_the_global_generators_as_they_were(tmp_path: Path) -> None:
    done = in_a_process(GENERATORS, tmp_path / "run")  # beartype draws from Python's generator
    assert done.stdout.endswith("as they were\n"), done.stderr


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [3, 4, 8, 11])
def test_a_run_that_died_and_is_run_again_ends_bit_identical(tmp_path: Path, at: int) -> None:
    """The folder holds the last whole epoch; what came after it is done again."""
    whole = checkpointed(None)
    with pytest.raises(ZeroDivisionError):
        checkpointed(tmp_path / "run", callbacks=[Note(at=at, error=ZeroDivisionError())])
    note = Note()
    assert_same_run(checkpointed(tmp_path / "run", callbacks=[note]), whole)
    done = 3 * (at // 3) if at % 3 else at - 3  # an epoch of three batches is saved after its callbacks
    assert note.steps == list(range(done + 1, 13))
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_ctrl_c_and_the_same_command_end_bit_identical(tmp_path: Path) -> None:
    _, history = checkpointed(tmp_path / "run", callbacks=[Note(at=8, error=KeyboardInterrupt())])
    assert history.interrupted
    again = checkpointed(tmp_path / "run")
    assert not again[1].interrupted
    assert_same_run(again, checkpointed(None))


@pytest.mark.parametrize("owner", ["loader", "sampler"])
def test_a_loader_with_a_generator_of_its_own_resumes_too(tmp_path: Path, owner: str) -> None:
    def run(folder: Path | None, **kwargs: Any) -> tuple[dict[str, Tensor], Any]:
        bnet, generator = linear(), torch.Generator().manual_seed(11)
        loader = shuffled(generator=generator)
        if owner == "sampler":
            sampler = torch.utils.data.RandomSampler(loader.dataset, generator=generator)
            loader = DataLoader(loader.dataset, batch_size=16, sampler=sampler)
        history = fit(bnet, loader, epochs=3, checkpoint=folder, **kwargs)
        return state(bnet), history

    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "run", callbacks=[Note(at=5, error=ZeroDivisionError())])
    assert_same_run(run(tmp_path / "run"), run(None))


class Centring(nn.Module):
    """Whose centre is None until a first batch says what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)
        self.register_buffer("centre", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.centre is None:
            self.centre = x.mean(0).detach()
        elif self.training:
            self.centre = 0.9 * self.centre + 0.1 * x.mean(0).detach()
        return self.fc(x - self.centre)


class Within(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 6), nn.Sequential(Centring()))


@pytest.mark.parametrize("make", [Centring, Within])
@pytest.mark.parametrize("at", [2, 7])
def test_a_run_resumes_whose_buffers_are_none_until_the_first_batch(
    tmp_path: Path, make: Callable[[], nn.Module], at: int
) -> None:
    torch.manual_seed(0)
    net, batches = make(), [(torch.randn(8, 6) + 2, torch.arange(8) % 3) for _ in range(3)]

    def run(bnet: bp.BayesianNet, folder: Path | None, *callbacks: bp.Callback) -> dict[str, Tensor]:
        model = bp.classify(bnet, 24)
        bp.fit(model, bnet.guide, batches, epochs=4, lr=0.02, seed=0, checkpoint=folder, callbacks=callbacks)
        return bnet.state().values

    def fresh() -> bp.BayesianNet:
        return bp.BayesianNet(net, {"*fc.weight": bp.Gaussian()})

    whole = run(fresh(), None)
    assert any(name.endswith("centre") for name in whole)
    bnet = fresh()
    with pytest.raises(ZeroDivisionError):
        run(bnet, tmp_path / "run", Note(at=at, error=ZeroDivisionError()))
    again = run(fresh() if at == 7 else bnet, tmp_path / "run")  # at 2 the save is from before there was a centre
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    other = fresh()
    other.load_state_dict(bnet.state_dict())
    assert other.state().values.keys() == whole.keys()


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    whole = checkpointed(tmp_path / "run")
    note = Note()
    again = checkpointed(tmp_path / "run", callbacks=[note])
    assert note.steps == []
    assert_same_run(again, whole)
    assert [e.seconds for e in again[1].epochs] == [e.seconds for e in whole[1].epochs]


KILLED = """
import os, signal

class Kill(t.bp.Callback):
    def on_step(self, run):
        if run.step == 8:
            os.kill(os.getpid(), signal.SIGKILL)

t.checkpointed(folder, callbacks=[Kill()])
"""


def test_a_run_that_was_killed_and_is_run_again_ends_bit_identical(tmp_path: Path) -> None:
    done = in_a_process(KILLED, tmp_path / "run")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "run").is_dir()
    note = Note()
    assert_same_run(checkpointed(tmp_path / "run", callbacks=[note]), checkpointed(None))
    assert note.steps == [7, 8, 9, 10, 11, 12]


OURS = "bayesprune-checkpoints"


def epochs_in(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / OURS).iterdir())


def files_in(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


MOMENTS = {"the first file": ("fsync", 1), "the manifest": ("fsync", 4), "the rename": ("rename", 1)}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_of_a_save_the_last_whole_epoch_resumes(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    checkpointed(folder, callbacks=[Note(at=8, error=KeyboardInterrupt())])
    before = files_in(folder)
    what, count = MOMENTS[moment]
    died = RuntimeError("power cut")
    calls = 0

    def dies(*args: Any, real: Callable[..., Any]) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            raise died
        return real(*args)

    if what == "fsync":
        monkeypatch.setattr(os, "fsync", partial(dies, real=os.fsync))
    else:
        rename = Path.rename
        monkeypatch.setattr(Path, "rename", lambda self, target: dies(self, target, real=rename))
    with pytest.raises(RuntimeError, match="power cut"):
        checkpointed(folder)
    monkeypatch.undo()
    after = files_in(folder)
    assert {path: after[path] for path in before} == before
    note = Note()
    assert_same_run(checkpointed(folder, callbacks=[note]), checkpointed(None))
    assert note.steps[0] == 7
    assert epochs_in(folder) == ["epoch-3", "epoch-4"]


def test_files_and_folders_are_on_disk_before_a_name_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and the folder that names them is synced before the rename, the folder above it after."""
    said: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(handle: int) -> None:
        said.append(Path(f"/proc/self/fd/{handle}").resolve().name)
        fsync(handle)

    def renamed(self: Path, target: Path) -> Path:
        said.append(f"{self.name} -> {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    checkpointed(tmp_path / "run", epochs=1)
    one = ["rank-0.safetensors", "run.safetensors", "manifest.json", ".new"]
    above = [OURS, "run", tmp_path.name]
    made = [tmp_path.name, "run"]  # where folders have their names
    assert said == [*made, *one, ".new -> epoch-0", *above, *one, ".new -> epoch-1", *above]


def damaged_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_bytes(b"") and None,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-7]) and None,
    "text": lambda file: file.write_text("precious") and None,
    "a flipped bit": damaged_bit,
}
FILES = ["run.safetensors", "rank-0.safetensors", "manifest.json"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_falls_back_on_the_one_before_or_is_refused(
    tmp_path: Path, damage: str, file: str
) -> None:
    folder = tmp_path / "run"
    checkpointed(folder, callbacks=[Note(at=8, error=KeyboardInterrupt())])
    DAMAGES[damage](folder / OURS / "epoch-2" / file)
    note = Note()
    with pytest.warns(CheckpointWarning, match="epoch-2.*going on from epoch 1"):
        again = checkpointed(folder, callbacks=[note])
    assert note.steps[0] == 4
    assert_same_run(again, checkpointed(None))
    for epoch in epochs_in(folder):
        DAMAGES[damage](folder / OURS / epoch / file)
    before = files_in(tmp_path)
    bnet = convolution()
    start, generator = state(bnet), torch.get_rng_state()
    with pytest.raises(ValueError, match=r"run' is no checkpoint of this run, or a damaged one"):
        fit(bnet, shuffled(), epochs=4, seed=3, prune=bp.Cubic(keep=0.5, every=2), checkpoint=folder)
    assert files_in(tmp_path) == before
    assert same(state(bnet), start)
    assert torch.equal(torch.get_rng_state(), generator)


def settings(**other: Any) -> dict[str, Any]:
    x, y = data()
    return {"method": bp.SparseVD(), "estimator": "local", "x": x, "y": y, "size": 48, "batch": 16, **other}


def run_with(folder: Path, **given: Any) -> tuple[bp.BayesianNet, Any]:
    wanted = settings(**given)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 2))
    bnet = bp.BayesianNet(net, {"*.weight": wanted.pop("method")}, estimator=wanted.pop("estimator"))
    x, y, batch, size = (wanted.pop(name) for name in ("x", "y", "batch", "size"))
    loader = wanted.pop("loader", None) or DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)
    fixed = {"epochs": 2, "lr": 0.01, "seed": 1, "progress": False}
    return bnet, lambda: bp.fit(bp.classify(bnet, size), bnet.guide, loader, checkpoint=folder, **{**fixed, **wanted})


def sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=0.9)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": bp.ARD()}, r"method of '1.weight' was SparseVD.* and is ARD"),
    "hyper-parameter": ({"method": bp.SparseVD(init_log_scale=-5.5)}, r"method of '1.weight' was SparseVD"),
    "pattern": ({"method": bp.SparseVD(bp.Block(2, 2))}, r"is SparseVD\(pattern=Block\(h=2, w=2\)"),
    "estimator": ({"estimator": "flipout"}, "estimator was local and is flipout"),
    "seed": ({"seed": 2}, "seed was 1 and is 2"),
    "lr": ({"lr": 0.02}, r"lr was 0\.01 and is 0\.02"),
    "optimiser": ({"optimizer": sgd}, "optimizer was Adam and is SGD"),
    "decay": ({"decay": lambda progress: 1 - progress / 2}, "decay was"),
    "warm-up": ({"warmup": 1.0}, r"warmup was None and is 1\.0"),
    "schedule": ({"prune": bp.Cubic(keep=0.2)}, r"prune was None and is Cubic\(keep=0\.2"),
    "batch": ({"batch": 12}, "batches an epoch was 3 and is 4"),
    "data": ({"x": data()[0] + 5}, "data was"),
    "labels": ({"y": 1 - data()[1]}, "data was"),
    "autocast": ({"autocast": "bf16"}, "autocast was None and is bf16"),
    "fewer epochs": ({"epochs": 1}, "it has done 2 epochs, and epochs=1 asks for fewer"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_runs_checkpoint_is_refused_by_the_difference(tmp_path: Path, other: str) -> None:
    run_with(tmp_path / "run")[1]()
    given, words = OTHERS[other]
    bnet, go = run_with(tmp_path / "run", **given)
    start, files = state(bnet), files_in(tmp_path)
    with pytest.raises(ValueError, match=f"no checkpoint of this run, or a damaged one: .*{words}"):
        go()
    assert same(state(bnet), start)
    assert files_in(tmp_path) == files


def test_the_same_run_in_another_process_has_the_same_fingerprint(tmp_path: Path) -> None:
    """No address of an object or a function gets into it."""
    done = in_a_process("t.checkpointed(folder, epochs=2)", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    note = Note()
    assert_same_run(checkpointed(tmp_path / "run", epochs=2, callbacks=[note]), checkpointed(None, epochs=2))
    assert note.steps == []


def test_a_checkpoint_of_another_net_is_an_error(tmp_path: Path) -> None:
    checkpointed(tmp_path / "run", epochs=1)
    with pytest.raises(ValueError, match="no checkpoint of this run"):
        fit(linear(), shuffled(), checkpoint=tmp_path / "run")


def test_the_users_files_stay_and_only_the_last_two_epochs_do(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "notes").mkdir(parents=True)
    (folder / "notes" / "thesis.tex").write_text("precious")
    assert_same_run(checkpointed(folder), checkpointed(None))
    assert (folder / "notes" / "thesis.tex").read_text() == "precious"
    assert sorted(p.name for p in folder.iterdir()) == [OURS, "notes"]
    assert epochs_in(folder) == ["epoch-3", "epoch-4"]


def test_a_symlink_and_the_current_folder_are_folders_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    checkpointed(tmp_path / "run", callbacks=[Note(at=8, error=KeyboardInterrupt())])
    monkeypatch.chdir(tmp_path / "disk")
    note = Note()
    assert_same_run(checkpointed(Path(), callbacks=[note]), checkpointed(None))
    assert note.steps[0] == 7
    assert (tmp_path / "run").is_symlink()
    assert epochs_in(tmp_path / "run") == ["epoch-3", "epoch-4"]


def test_a_file_in_its_place_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("precious")
    with pytest.raises(ValueError, match="it is a file"):
        checkpointed(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "precious"


def test_a_checkpoint_of_the_last_version_is_refused_unread(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "custom_checkpoint_0.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(ValueError, match="earlier version, as pickles"):
        checkpointed(folder)


def test_what_cannot_be_written_is_known_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    note = Note()
    with pytest.raises(OSError, match=r"no checkpoint can be written \(No space left on device\)") as caught:
        checkpointed(tmp_path / "run", callbacks=[note])
    assert caught.value.errno == errno.ENOSPC
    assert note.steps == []
    assert epochs_in(tmp_path / "run") == []


def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    fsync = os.fsync

    class Fill(bp.Callback):
        def on_step(self, run: bp.Run) -> None:
            if run.step == 5:
                monkeypatch.setattr(os, "fsync", full)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="those before it stand"):
        checkpointed(folder, callbacks=[Fill()])
    monkeypatch.setattr(os, "fsync", fsync)
    assert epochs_in(folder) == ["epoch-0", "epoch-1"]
    assert_same_run(checkpointed(folder), checkpointed(None))


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    checkpointed(tmp_path / "run", epochs=1)
    names = {path.name for path in files_in(tmp_path)}
    assert names == {"run.safetensors", "rank-0.safetensors", "manifest.json"}
    for path, content in files_in(tmp_path).items():
        if path.suffix == ".safetensors":
            assert load(content)  # safetensors' own reader takes it
        else:
            assert set(json.loads(content)) == {"sha256", "epoch", "fingerprint", "files"}


VALUES: list[Any] = [
    None,
    {"a": [1, 2.5, float("inf"), "ü", True, None], 3: (1, (2, [3]))},
    {"empty": [], "none": (), "nothing": {}},
    2**80,
]


@pytest.mark.parametrize("value", VALUES)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    assert from_bytes(to_bytes(value)) == value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_come_back_bit_for_bit(dtype: torch.dtype) -> None:
    tensors = [torch.randn(3, 4).to(dtype).T, torch.zeros(0, 2, dtype=dtype), torch.ones((), dtype=dtype)]
    found = from_bytes(to_bytes({"t": tensors}))["t"]
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, tensors, strict=True))
    wave = torch.randn(3, dtype=torch.complex64)
    assert torch.equal(from_bytes(to_bytes(wave)), wave)


@pytest.mark.parametrize("value", [{1, 2}, object(), [print]])
def test_what_would_need_a_pickle_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="a checkpoint holds numbers, words and tensors, not"):
        to_bytes(value)
