"""Tens of thousands of forged files: each is refused as ``FileError`` or loads; none ends the process, or costs much.

Those of a kind are made and read in processes of their own (``forged.py``), so that a crash is seen.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load as read
from support.designed import DESIGNED
from support.forged import KINDS
from support.measured import allocated
from support.mutations import MODELS, summed
from support.paths import ROOT
from torch import nn

from bayesprune.sparse import FileError, load, save

pytestmark = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="counts as Linux does")

MANY = dict.fromkeys(MODELS, 4_000) | dict.fromkeys(DESIGNED, 700) | {"expressions": 8_000, "recipes": 4_900}


def survey(cache, kind, first, count, kinds=1):
    script = ROOT / "tests/support/forged.py"
    env = os.environ | {"BAYESPRUNE_CACHE": str(cache), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    env |= {"MALLOC_MMAP_THRESHOLD_": "131072", "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    command = [sys.executable, str(script), kind, str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, env=env)
    assert done.returncode == 0, f"the process ended with {done.returncode}: {done.stderr[-2000:]}"
    result = json.loads(done.stdout)
    assert not result["wrong"], result
    assert sum(result["counts"].values()) == count * kinds, result
    return result


@pytest.mark.parametrize("third", range(3))
def test_a_sample(tmp_path, third):
    kinds = [*KINDS][third::3]
    result = survey(tmp_path, ",".join(kinds), 0, 12, len(kinds))
    assert result["counts"]["refused"] > 2 * len(kinds), result


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_fifty_thousand(tmp_path, kind):
    assert sum(MANY.values()) == 50_000
    results = [survey(tmp_path, kind, first, min(500, MANY[kind] - first)) for first in range(0, MANY[kind], 500)]
    assert sum(result["counts"]["refused"] for result in results) > MANY[kind] / 4


def zeros(tmp_path):
    """A file of a convolution of zeros, and its parts; it unpacks to many times its bytes."""
    net = nn.Sequential(nn.Conv1d(512, 512, 3, bias=False))
    nn.init.zeros_(net[0].weight)
    net[0].weight.data[::8, ::8] = 1
    path = tmp_path / "model.safetensors"
    save(net, path)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return path, json.loads(header["__metadata__"]["bayesprune"]), read(data)


def test_what_a_file_claims_is_held_against_the_net_before_it_is_unpacked(tmp_path):
    path, manifest, tensors = zeros(tmp_path)
    manifest["tensors"]["0.weight"]["shape"] = [512, 5000, 3]
    path.write_bytes(summed(manifest, tensors))
    error, most = allocated(lambda: load(path))
    assert isinstance(error, FileError) and most < 2**24
    assert "'0.weight': (512, 5000, 3) in the file, (512, 512, 3) in the net" in str(error)
    manifest["tensors"]["0.weight"]["shape"] = [512, 50_000, 3]
    manifest["net"]["children"]["0"]["args"]["in_channels"] = 50_000
    path.write_bytes(summed(manifest, tensors))
    error, most = allocated(lambda: load(path))
    assert isinstance(error, FileError) and most < 2**24
    assert "it claims tensors of 307,200,000 bytes, more than a file of" in str(error)


def test_one_stored_tensor_cannot_become_many(tmp_path):
    path, manifest, tensors = zeros(tmp_path)
    manifest["tensors"] |= {f"{n}.weight": manifest["tensors"]["0.weight"] for n in range(9)}
    path.write_bytes(summed(manifest, tensors))
    with pytest.raises(FileError, match="makes two tensors of one and the same"):
        load(path)


def test_an_error_that_no_one_foresaw_is_still_a_file_error(tmp_path):
    path, manifest, tensors = zeros(tmp_path)
    manifest["net"]["children"]["0"] = {
        "class": "Conv2d",
        "args": {"in_channels": 1, "out_channels": 1, "kernel_size": [3]},
    }
    manifest["sparse"]["0"] = {"format": ["CSR", None], "kernel": "native", "shape": [1, 9], "activation": ""}
    path.write_bytes(summed(manifest, tensors))
    with pytest.raises(FileError, match="does not fit the net"):
        load(path)


def test_memory_that_is_merely_asked_for_is_counted():
    kept, most = allocated(lambda: torch.empty(2**28))
    assert most >= 2**30 and kept.numel() == 2**28
