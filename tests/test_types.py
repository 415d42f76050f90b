"""What an editor and a type checker know of the package: signatures, not ``Any``; names, and what a call takes."""

import jedi
import pytest
from mypy import api

SCRIPT = """
import torch
import bayesprune as bp
reveal_type(bp.fit)
reveal_type(bp.predict)
reveal_type(bp.masks)
reveal_type(bp.sparsify)
bnet = bp.BayesianNet(torch.nn.Linear(2, 2), {"weight": bp.SparseVD()})
reveal_type(bnet)
reveal_type(bp.classify(bnet))
reveal_type(bp.fit(bp.classify(bnet), [], epochs=1).nll)
reveal_type(bp.predict(bnet, []).mean)
bp.fit(bp.classify(bnet), [], epoch=1)
"""
TYPES = [
    "def (model: ",
    "def (bnet: ",
    "def (bnet: ",
    "def (net: ",
    "bayesprune.network.bayesian_net.BayesianNet",
    "bayesprune.fitting.supervised.SupervisedModel",
    "list[float]",
    "torch._tensor.Tensor",
]


@pytest.mark.slow
def test_mypy_knows_the_types() -> None:
    found, problems, _ = api.run(["--no-error-summary", "--python-version", "3.11", "--config-file=", "-c", SCRIPT])
    assert not problems
    revealed = [line.partition("Revealed type is ")[2].strip('"') for line in found.splitlines() if "Revealed" in line]
    assert len(revealed) == len(TYPES)
    assert all(words in said for words, said in zip(TYPES, revealed, strict=True)), revealed
    assert not [said for said in revealed if said == "Any"]
    assert 'Unexpected keyword argument "epoch" for "fit"' in found


@pytest.mark.parametrize(
    ("typed", "wanted"), [("bp.fi", "fit"), ("bp.BayesianN", "BayesianNet"), ("bp.plots.snr", "snr_histograms")]
)
def test_an_editor_completes_names(typed: str, wanted: str) -> None:
    lines = ["import bayesprune as bp", typed]
    names = {found.name for found in jedi.Script("\n".join(lines)).complete(2, len(typed))}
    assert wanted in names


def test_an_editor_knows_what_fit_takes() -> None:
    (signature,) = jedi.Script("import bayesprune as bp\nbp.fit(").get_signatures(2, 7)
    assert {"model", "guide", "loader", "epochs", "prune"} <= {param.name for param in signature.params}
