"""A file unpacks to no more than its bytes allow, but into a net that is known; and what is saved so says so."""

import os
import subprocess
import sys
import warnings

import pytest
import torch
from support.elsewhere import environment
from torch import nn

from bayesprune.cli import info
from bayesprune.sparse import CSR, FileError, compressed, export, load, save
from bayesprune.sparse.saving.contents import contents

ASKS = r"claims tensors of [0-9,]+ bytes, more than a file of .* bp.load\(path, net=…\)"


def of_little(side: int, kept: int = 100) -> nn.Module:
    """A net of a square of zeros, but for a few of its entries."""
    net = nn.Sequential(nn.Linear(side, side, bias=False))
    nn.init.zeros_(net[0].weight)
    net[0].weight.data.view(-1)[torch.randperm(side**2)[:kept]] = 1.0
    return net


class Own(nn.Sequential):
    """A class that no file can tell."""


def test_a_compressed_net_of_next_to_nothing_asks_for_the_net_and_is_told_so_when_it_is_saved(tmp_path):
    net, path = of_little(4000), tmp_path / "m"
    with pytest.warns(UserWarning, match=ASKS):
        save(net, path, compress=True)
    with pytest.raises(FileError, match=ASKS):
        load(path)
    skeleton = nn.Sequential(nn.Linear(4000, 4000, bias=False))
    assert torch.equal(load(path, skeleton)[0].weight, net[0].weight)
    found = contents(path)
    assert not found["loads_alone"] and "claims tensors" in found["needs_net"]
    assert found["tensors"]["0.weight"]["bytes"] is None and found["packed_bytes"] == 64_000_000
    assert info._of_model(path)[1]
    with pytest.raises(FileError, match=r"\(4000, 4000\) in the file, \(4000, 3999\) in the net"):
        load(path, nn.Sequential(nn.Linear(3999, 4000, bias=False)))


@pytest.mark.parametrize("side", [10, 300, 1500])
def test_what_is_small_loads_alone(tmp_path, side):
    net = of_little(side)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(net, tmp_path / "m", compress=True)
    assert torch.equal(load(tmp_path / "m")[0].weight, net[0].weight)
    assert contents(tmp_path / "m")["loads_alone"]


def test_packed_it_loads_alone(tmp_path):
    net = of_little(4000)
    sparse = export(net, {}, {"0.weight": net[0].weight != 0}, example=torch.randn(1, 4000), formats={"*": CSR()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(sparse, tmp_path / "m", compress=True)
    assert torch.equal(load(tmp_path / "m")[0].values, sparse[0].values)


def test_of_a_class_of_ones_own_it_needs_its_net_anyway(tmp_path):
    net = Own(*of_little(4000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(net, tmp_path / "m", compress=True)
    assert "Own" in compressed(net).asks
    assert torch.equal(load(tmp_path / "m", Own(nn.Linear(4000, 4000, bias=False)))[0].weight, net[0].weight)


def test_uncompressed_a_net_always_loads_alone(tmp_path):
    """Where its zeros would make it small beyond belief, they are written out; not where the net is given anyway."""
    net, path = of_little(4000), tmp_path / "m"
    save(net, path)
    assert path.stat().st_size > 64_000_000 and torch.equal(load(path)[0].weight, net[0].weight)
    save(Own(*net), path)
    assert path.stat().st_size < 64_000
    assert torch.equal(load(path, Own(nn.Linear(4000, 4000, bias=False)))[0].weight, net[0].weight)
    save(of_little(1500), path)
    assert path.stat().st_size < 64_000 and load(path)[0].weight.shape == (1500, 1500)


def test_a_known_net_is_the_bound(tmp_path):
    """What lifts it is the size of the net that is given, and no more than twice that."""
    net = nn.Sequential(*of_little(4000), nn.Linear(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(net, tmp_path / "m", compress=True)
    with pytest.raises(FileError, match="claims tensors of 64,000,024 bytes, and the net has 24"):
        load(tmp_path / "m", nn.Sequential(nn.Identity(), nn.Linear(2, 2)))


@pytest.mark.parametrize("compress", [False, True])
def test_the_same_net_gives_the_same_bytes(tmp_path, compress):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    net[4].weight.data[torch.rand(5, 32) < 0.9] = 0
    files = set()
    for _ in range(20):
        save(net, tmp_path / "m", compress=compress)
        files.add((tmp_path / "m").read_bytes())
    assert len(files) == 1
    again = load(tmp_path / "m")
    for _ in range(2):
        save(again, tmp_path / "n", compress=compress)
        files.add((tmp_path / "n").read_bytes())
        again = load(tmp_path / "n")
    if not compress:  # which rounds, and then writes what it rounded to
        assert len(files) == 1


ALONE = """
from pathlib import Path
import torch
from bayesprune.sparse import load
from support.designed import masked_dense
from support.measured import allocated, give_back
torch.set_num_threads(1)
for how in ("levels", "halves"):
    for dtype, itemsize in (("bfloat16", 2), ("float32", 4)):
        data = masked_dense(1500, 1500, dtype, 1.0, how)
        Path("m").write_bytes(data)
        load("m")
        give_back()
        net, most = allocated(lambda: load("m"))
        print(most - 2 * len(data), net.weight.numel() * (8 + itemsize))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="counts as Linux does")
def test_entries_that_stand_alone_take_what_is_counted(tmp_path):
    """All of a weight is there, each entry with a place and a symbol of its own."""
    env = environment(OMP_NUM_THREADS="1", MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_="131072")
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        took, counted = map(int, line.split())
        assert counted / 2 < took < counted + 2**23, line  # what is left of 64 MiB for all else


WRITTEN = """
import torch
from bayesprune.sparse import save
save(torch.nn.Linear(3, 2), "linear"), save(torch.nn.Embedding(3, 2), "embedding")
"""
READ = """
import sys, torch
from bayesprune.sparse import load
load("linear")
before = set(sys.modules)
load("embedding")
print(len(set(sys.modules) - before), "sympy" in sys.modules)
"""


def test_the_first_embedding_to_be_loaded_costs_no_more_than_any_other_module(tmp_path):
    """Drawing its values on the meta device would make torch import its compiler: 900 modules, 150 MB."""
    env = environment(OMP_NUM_THREADS="1")
    for code in (WRITTEN, READ):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stdout == "0 False\n"
