"""What a forged file may cost: 10 s, and 64 MB and four times its bytes. Its checksums are right, as anybody's can be.

All are read in a process of their own (``costs.py``), so that a crash is seen.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from support.designed import (
    coded,
    entry,
    manifest,
    many,
    masked_dense,
    module,
    of_crow,
    packed_layer,
    stacked,
    zeros_kept_exactly,
)
from support.mutations import summed
from support.paths import ROOT

pytestmark = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="counts as Linux does")

SECONDS, FREE = 10.0, 2**26


FORGED = {
    "a linear layer on a device": lambda: coded(
        manifest(module("Linear", in_features=2, out_features=2, device="cpu"))
    ),
    "a large one": lambda: coded(manifest(module("Linear", in_features=20_000, out_features=20_000, device="cpu"))),
    "a batch norm on a device": lambda: coded(manifest(module("BatchNorm1d", num_features=10**9, device="cpu"))),
    "another dtype": lambda: coded(manifest(module("Linear", in_features=2, out_features=2, dtype=None))),
    "stacks in stacks": lambda: coded(manifest(stacked(4, 20))),
    "a deep stack": lambda: coded(manifest(stacked(1, 999))),
    "stacks in an argument's lists": lambda: coded(manifest(module("Linear", in_features=[[stacked(4, 20)]]))),
    "a recurrent net": lambda: coded(manifest(module("GRU", input_size=1, hidden_size=1, num_layers=5_000))),
    "recurrent nets": lambda: coded(
        manifest(
            {
                "class": "Sequential",
                "children": {str(n): module("GRU", input_size=1, hidden_size=1, num_layers=100) for n in range(400)},
            }
        )
    ),
    "a shape of millions of sides": lambda: coded(manifest(None, {"x": entry([2] * 400_000)})),
    "sides of thousands of digits": lambda: coded(
        json.dumps(manifest(None, {"x": entry([])})).replace(
            '"shape": []', f'"shape": [{",".join(["9" * 4200] * 200)}]'
        )
    ),
    "sides beyond 64 bits": lambda: coded(manifest(None, {"x": entry([2**63])})),
    "an argument of millions of numbers": lambda: coded(manifest(module("LayerNorm", normalized_shape=[1] * 300_000))),
    "a kernel of as many sides": lambda: coded(
        manifest(module("Conv2d", in_channels=1, out_channels=1, kernel_size=[1] * 300_000))
    ),
    "a text of millions of lists": lambda: coded(
        json.dumps(manifest()).replace('"net": null', '"net": {"class": [' + "[]," * 5_000_000 + "[]]}")
    ),
    "modules without end": lambda: coded(many(100_000)),
    "modules without end.safetensors": lambda: summed(many(100_000), {"x": torch.zeros(1)}),
    "a masked dense weight": lambda: masked_dense(2890, 2890),
    "integers in a wide grid": lambda: packed_layer(2**10, 2**31 - 1, 4_400_000, bits=8),
    "many integers in a wide grid": lambda: packed_layer(2**10, 2**31 - 1, 5_800_000, bits=8, turned=1),
    "numbers in a wide grid": lambda: packed_layer(2**10, 2**31 - 1, 3_500_000),
    "more of them": lambda: packed_layer(2**15, 2**16, 5_000_000, turned=1),
    "zeros kept exactly": lambda: zeros_kept_exactly(15),
    "more zeros kept exactly": lambda: zeros_kept_exactly(280),
    "rows of less.safetensors": lambda: of_crow(10**6, 6),
    "65 sides": lambda: coded(manifest(None, {"x": entry([1] * 65)})),
    "an argument of 65 numbers": lambda: coded(manifest(module("LayerNorm", normalized_shape=[1] * 65))),
    "an argument beyond 64 bits": lambda: coded(manifest(module("Linear", in_features=2**70, out_features=1))),
    "rows of nothing.safetensors": lambda: of_crow(10**6, 250),
    "damaged numbers": lambda: coded(manifest(None, {"x": entry([300, 300], "levels")}), numbers=bytes(400)),
}


@pytest.fixture(scope="module")
def costs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forged")
    sizes = {name: (folder / name).write_bytes(make()) for name, make in FORGED.items()}
    env = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    command = [sys.executable, str(ROOT / "tests/support/costs.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, f"the process ended with {done.returncode}: {done.stderr[-2000:]}"
    return sizes, json.loads(done.stdout)


@pytest.mark.parametrize("read", ["load", "contents"])
@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_costs_little_and_is_refused_in_our_own_words(name, read, costs):
    sizes, found = costs
    cost = found[f"{name} {read}"]
    assert cost["seconds"] < SECONDS and cost["bytes"] <= FREE + 4 * sizes[name], (sizes[name], cost)
    assert cost["told"].startswith(("FileError: ", "dict: ", "Linear: ", "SparseLinear: ")), cost["told"]
