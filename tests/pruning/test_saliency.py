"""Layer-adaptive magnitude against the paper's own sum, written as a loop."""

import pytest
import torch
from torch import Tensor, nn

from bayesprune import Block, Deterministic, Unstructured
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.patterns import Pattern
from bayesprune.pruning.masking import masks
from bayesprune.pruning.saliency import lamp


def by_loop(energies: Tensor) -> Tensor:
    flat = energies.flatten()
    return torch.stack([e / flat[flat >= e].sum() for e in flat]).reshape(energies.shape)


@pytest.mark.parametrize("pattern", [Unstructured(), Block(2, 2)])
def test_lamp_is_energy_over_that_of_all_that_are_not_smaller(pattern: Pattern) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    bnet = BayesianNet(net, {"*.weight": Deterministic(pattern)})
    found = lamp(bnet)
    for name, posterior in bnet.posteriors.items():
        energies = pattern.pool(net.get_parameter(name).detach().square(), posterior.layout)
        torch.testing.assert_close(found[name], by_loop(energies))
        assert found[name].max() == 1


def test_lamp_keeps_the_largest_of_a_layer_whatever_its_scale() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with torch.no_grad():
        net[1].weight.mul_(1e-6)
    kept = masks(BayesianNet(net, {"*.weight": Deterministic()}), keep=2 / 128, saliency=lamp)
    assert [int(mask.sum()) for mask in kept.values()] == [1, 1]
