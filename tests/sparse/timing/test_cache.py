"""A second plan of the same masks measures nothing; whatever times depend on measures again."""

import json
import os
import time
from itertools import count

import pytest
import torch
from torch import nn

import bayesprune
from bayesprune._files import cache_folder, keep
from bayesprune.sparse import export, plan
from bayesprune.sparse.timing import cache as plan_cache

CPU = torch.device("cpu")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))


def masks(seed=0):
    generator = torch.Generator().manual_seed(seed)
    blocks = (torch.rand(2, 64, generator=generator) < 0.2).repeat_interleave(16, 0)
    return {"0.weight": blocks, "2.weight": torch.rand(16, 32, generator=generator) < 0.1}


@pytest.fixture
def races(monkeypatch, tmp_path):
    """An empty cache, a race of made-up times on a quiet machine, and the names that each race was given."""
    monkeypatch.setenv("BAYESPRUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(plan_cache, "_QUIET", 0.0)
    given = []

    def time_interleaved(runners, *, device):
        given.append(list(runners))
        return {name: (k + 1) / 1024 for k, name in enumerate(runners)}

    monkeypatch.setattr(plan_cache, "time_interleaved", time_interleaved)
    return given


def test_a_second_plan_and_an_export_measure_nothing(races):
    x = torch.ones(8, 64)
    first = plan(net(), masks(), example=x)
    assert len(races) == 2 and "dense" in races[0]
    again = plan(net(), masks(), example=x)
    export(net(), {}, masks(), example=x)
    assert len(races) == 2
    today = time.strftime("%Y-%m-%d")
    for name, choice in again.choices.items():
        assert choice.seconds == first[name].seconds and choice.label == first[name].label
        assert f"measured {today}" in choice.reason and today not in first[name].reason


def test_measured_anew_where_it_is_asked_for(races):
    x = torch.ones(8, 64)
    plan(net(), masks(), example=x)
    made = plan(net(), masks(), example=x, cached=False)
    export(net(), {}, masks(), example=x, cached=False)
    assert len(races) == 6
    assert all(time.strftime("%Y-%m-%d") not in choice.reason for choice in made.choices.values())
    plan(net(), masks(), example=x)  # what was measured anew is kept
    assert len(races) == 6


def planned(example=None, seed=0, made=None):
    plan(made or net(), masks(seed), example=torch.ones(8, 64) if example is None else example)


def one_bit():
    different = masks()
    different["2.weight"][3, 4] ^= True
    plan(net(), different, example=torch.ones(8, 64))


@pytest.mark.parametrize(
    ("change", "measured"),
    [
        (lambda patch: None, 0),
        (lambda patch: planned(seed=1), 2),
        (lambda patch: one_bit(), 1),
        (lambda patch: planned(torch.ones(9, 64)), 2),
        (lambda patch: planned(torch.ones(2, 4, 64)), 2),
        (lambda patch: planned(torch.ones(8, 64, dtype=torch.float64), made=net().double()), 2),
        (lambda patch: patch.setattr(torch, "get_num_threads", lambda: 3), 2),
        (lambda patch: patch.setattr(torch, "__version__", "9.9"), 2),
        (lambda patch: patch.setattr(bayesprune, "__version__", "9.9"), 2),
        (lambda patch: patch.setattr(plan_cache, "_sources", lambda: "other kernels"), 2),
        (lambda patch: patch.setattr(plan_cache, "processor", lambda: "another processor"), 2),
        (lambda patch: patch.setenv("BAYESPRUNE_ISA", "avx2"), 2),
        (lambda patch: patch.setenv("ATEN_CPU_CAPABILITY", "default"), 2),
    ],
    ids=[
        "nothing",
        "mask",
        "bit",
        "tokens",
        "dimensions",
        "dtype",
        "threads",
        "torch",
        "version",
        "sources",
        "processor",
        "isa",
        "aten",
    ],
)
def test_what_measures_again(races, monkeypatch, change, measured):
    planned()
    races.clear()
    change(monkeypatch)
    planned()
    assert len(races) == measured


def test_times_that_are_too_old_are_measured_again(races, monkeypatch):
    planned()
    now = time.time()
    for days, measured in ((6, 0), (8, 2)):
        races.clear()
        monkeypatch.setattr(time, "time", lambda days=days: now + days * 86_400)
        planned()
        assert len(races) == measured
    races.clear()
    monkeypatch.setattr(time, "time", lambda: now - 86_400)  # the clock was put back: not to be believed
    planned()
    assert len(races) == 2


def test_entries_past_their_time_are_deleted(races):
    old, other = cache_folder("plans") / "old.json", cache_folder("plans") / "other.txt"
    keep(old, b"{}")
    keep(other, b"")
    long_ago = time.time() - 8 * 86_400
    os.utime(old, (long_ago, long_ago))
    planned()
    assert not old.exists() and other.exists() and len(list(cache_folder("plans").glob("*.json"))) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-5],
        lambda text: "[" * 100_000,
        lambda text: "\x00\xff",
        lambda text: json.dumps([1, 2]),
        lambda text: json.dumps({"seconds": [1], "measured": 1, "busy": False}),
        lambda text: text.replace("busy", "bus"),
        lambda text: json.dumps(json.loads(text) | {"measured": "today"}),
        lambda text: json.dumps(json.loads(text) | {"seconds": {"dense": 1.0}}),
        *(lambda text, bad=bad: text.replace("0.0009765625", bad) for bad in ("NaN", "Infinity", "-1.0", "0.0", '"a"')),
    ],
)
def test_a_damaged_entry_is_measured_again_and_replaced(races, damage):
    planned()
    for path in cache_folder("plans").glob("*.json"):
        path.write_text(damage(path.read_text()), encoding="latin-1")
    races.clear()
    planned()
    planned()
    assert len(races) == 2


def test_a_folder_that_cannot_be_written_costs_time_alone(races, monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("BAYESPRUNE_CACHE", str(file))
    planned()
    planned()
    assert len(races) == 4 and file.read_text() == ""


def test_what_was_measured_on_a_busy_machine_lasts_an_hour(races, monkeypatch):
    now = time.time()
    clock, ran = count(), count()
    with monkeypatch.context() as patch:
        patch.setattr(plan_cache, "_QUIET", 0.9)
        patch.setattr(time, "perf_counter", lambda: float(next(clock)))
        patch.setattr(time, "thread_time", lambda: 0.5 * next(ran))
        planned()
    made = plan(net(), masks(), example=torch.ones(8, 64))
    assert len(races) == 2 and all("on a busy machine" in choice.reason for choice in made.choices.values())
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    planned()
    assert len(races) == 4


def test_the_cache_holds_what_was_measured():
    runs = []
    seconds, day = plan_cache.timed({"a": lambda: runs.append(1)}, about=("here",), device=CPU, cached=False)
    assert seconds["a"] > 0 and runs and day == ""


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    keep(tmp_path / "deep" / "er" / "a", b"12")
    assert (tmp_path / "deep" / "er" / "a").read_bytes() == b"12"

    def full(self, target):
        raise OSError("no space left")

    monkeypatch.setattr(type(tmp_path), "replace", full)
    keep(tmp_path / "deep" / "er" / "a", b"345")
    assert [path.read_bytes() for path in (tmp_path / "deep" / "er").iterdir()] == [b"12"]


def test_modules_and_tensors_count_by_what_times_depend_on():
    def key(*about):
        return plan_cache.fingerprint(*about, device=CPU)

    x = torch.ones(2, 3, 4, 4)
    assert key(x) == key(torch.zeros(2, 3, 4, 4)) != key(x.contiguous(memory_format=torch.channels_last))
    conv = nn.Conv2d(3, 4, 3)
    assert key(conv) == key(nn.Conv2d(3, 4, 3)) != key(nn.Conv2d(3, 4, 3, stride=2))
    assert key(torch.ones(9, dtype=torch.bool)) != key(torch.ones(3, 3, dtype=torch.bool))
