"""The UCI example finds more than the mean, on the smallest set."""

import math
import os
import runpy

import pytest
from support.paths import ROOT

EXAMPLE = ROOT / "examples" / "uci_regression.py"


@pytest.mark.skipif(not os.environ.get("BAYESPRUNE_DATA"), reason="BAYESPRUNE_DATA names no folder with the real data")
def test_yacht_is_predicted_better_than_by_its_mean() -> None:
    example = runpy.run_path(str(EXAMPLE))
    splits = example["uci"]("yacht", split=0, val=0.2)
    bnet = example["fit"](splits, example["CHOSEN"]["Gaussian"], epochs=100)
    rmse, log_likelihood = example["figures"](bnet, splits.val, splits)
    assert rmse < 0.5 * splits.y_scale * float(splits.val.tensors[1].square().mean().sqrt())
    assert math.isfinite(log_likelihood)
