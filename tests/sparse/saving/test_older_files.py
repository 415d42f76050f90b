"""Files that an earlier version wrote load, and give what they gave when they were written."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bayesprune.sparse import SparseLinear, load
from bayesprune.sparse.saving.contents import contents

DATA = Path(__file__).parents[2] / "data"
PACKED = {
    "mlp.safetensors": {"0": "CSR", "2": "BSR(4, 1)"},
    "encoder.safetensors": {
        "layers.0.self_attn.in_proj": "CSR",
        "layers.0.self_attn.out_proj": "CSR",
        "layers.0.linear1": "BSR(4, 1)",
    },
    "convolutions.bp": {"3": "BSR(4, 1)", "7": "BSR(4, 1, bits=8)"},  # a batch normalisation worked in, and integers
}


@pytest.mark.parametrize("name", PACKED)
def test_a_file_of_an_earlier_version_loads_to_the_same_outputs(name):
    with np.load(DATA / "expected.npz") as arrays:
        x, expected = torch.from_numpy(arrays[f"{name}:x"]), torch.from_numpy(arrays[f"{name}:y"])
    net = load(DATA / name)
    packed = {path: str(m.format) for path, m in net.named_modules() if isinstance(m, SparseLinear)}
    assert packed == PACKED[name]
    assert {path: layer["format"] for path, layer in contents(DATA / name)["layers"].items()} == packed
    with torch.no_grad():
        y = net(x)
    assert y.shape == expected.shape and float((y - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
