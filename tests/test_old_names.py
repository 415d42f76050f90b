"""Public names of the last release still work, each with a warning that says the new one."""

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.layout import Layout


def test_a_pattern_expands_and_allows_under_its_old_names() -> None:
    pattern, layout, scores = bp.NM(1, 2), Layout((1, 4)), torch.tensor([[3.0, 1.0, 2.0, 4.0]])
    with pytest.warns(DeprecationWarning, match="Pattern.keep is called allowed now"):
        assert torch.equal(pattern.keep(scores, layout), pattern.allowed(scores, layout))
    block, grid = bp.Block(1, 2), torch.tensor([[1.0, 2.0]])
    with pytest.warns(DeprecationWarning, match="Pattern.spread is called expand now"):
        assert block.spread(grid, layout).tolist() == [[1.0, 1.0, 2.0, 2.0]]


def test_a_net_tells_its_coupled_weights_under_the_old_name() -> None:
    bnet = bp.BayesianNet(nn.MultiheadAttention(8, 2), {"*weight": bp.SparseVD(bp.Heads(2))})
    with pytest.warns(DeprecationWarning, match="BayesianNet.fates is called coupled now"):
        assert bnet.fates() == bnet.coupled() == [["in_proj_weight", "out_proj.weight"]]


def test_fit_takes_precision_and_an_epoch_tells_its_temperature() -> None:
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(4, 2)), {"*.weight": bp.SparseVD()})
    seen = []

    class Watch(bp.Callback):
        def on_gradient(self, run: bp.Run) -> None:
            seen.append(torch.is_autocast_enabled("cpu"))

    loader = [(torch.randn(6, 4), torch.zeros(6, dtype=torch.long))]
    with pytest.warns(DeprecationWarning, match="precision=…. is called autocast now"):
        history = bp.fit(bp.classify(bnet, 6), bnet.guide, loader, epochs=1, precision="no", callbacks=[Watch()])
    assert seen == [False]
    with pytest.warns(DeprecationWarning, match="Epoch.temperature is called kl_weight now"):
        assert history.epochs[0].temperature == history.epochs[0].kl_weight
    with pytest.warns(DeprecationWarning), pytest.raises(ValueError, match="autocast is 'bf16', 'no' or None"):
        bp.fit(bp.classify(bnet, 6), bnet.guide, loader, epochs=1, precision="fp16")
