"""A posterior's state is a snapshot: computed once, and left alone by what happens to the net afterwards."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.network import PosteriorState


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 4)
        self.norm = nn.BatchNorm1d(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.attention(x, x, x)[0])


@pytest.fixture
def bnet() -> bp.BayesianNet:
    torch.manual_seed(0)
    net = bp.BayesianNet(Attention(), {"attention.*weight": bp.SparseVD(bp.Heads(4))})
    for posterior in net.posteriors.values():
        posterior.get_parameter("loc").data.normal_()
        posterior.get_parameter("log_scale").data.normal_()
    return net


def flat(state: PosteriorState) -> list[Tensor]:
    pairs = (*state.moments.values(), *state.energies.values(), *state.unpruned.values())
    alone = (state.means, state.variances, state.snr, state.snr_when_pruned, state.kept)
    return [*(x for pair in pairs for x in pair), *(x for found in alone for x in found.values())]


def counted(bnet: bp.BayesianNet, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the moments of each weight are computed from now on."""
    calls = dict.fromkeys(bnet.posteriors, 0)
    for name, posterior in bnet.posteriors.items():

        def moments(name: str = name, own: Callable[[], Any] = posterior.moments) -> Any:
            calls[name] += 1
            return own()

        monkeypatch.setattr(posterior, "moments", moments)
    return calls


def test_what_happens_to_the_net_afterwards_does_not_reach_it(bnet: bp.BayesianNet) -> None:
    state, late = bnet.state(), bnet.state()  # of the second, everything is read when the net has changed
    before = [x.clone() for x in flat(state)]
    with torch.no_grad():
        for tensor in (*bnet.parameters(), *(b for b in bnet.buffers() if b.is_floating_point())):
            tensor.mul_(3.0)
    bnet.prune({name: torch.tensor([True, False, True, False]) for name in bnet.posteriors})
    for then, now, read_late in zip(before, flat(state), flat(late), strict=True):
        assert torch.equal(then, now) and torch.equal(then, read_late)
    assert not torch.equal(bnet.state().snr["attention.in_proj_weight"], state.snr["attention.in_proj_weight"])


def test_all_of_it_takes_the_moments_once(bnet: bp.BayesianNet, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(bnet, monkeypatch)
    flat(bnet.state())
    assert set(calls.values()) == {1}


def test_the_ratio_under_the_mask_is_what_it_was(bnet: bp.BayesianNet) -> None:
    before = bnet.snr()
    kept = torch.tensor([True, False, True, True])
    bnet.prune(dict.fromkeys(bnet.posteriors, kept))
    state = bnet.state()
    for name, ratio in before.items():
        assert torch.equal(state.snr_when_pruned[name], ratio)
        assert torch.equal(state.snr[name], torch.where(kept, ratio, 0.0)) and bool((ratio > 0).all())


def test_where_one_of_two_coupled_weights_is_pruned_the_net_decides(bnet: bp.BayesianNet) -> None:
    """What is kept stands at the net's own ratio, which the pruned weight no longer enters."""
    bnet.prune({"attention.out_proj.weight": torch.tensor([False, True, True, True])})
    state = bnet.state()
    assert state.snr_when_pruned["attention.in_proj_weight"][0] == bnet.snr()["attention.in_proj_weight"][0]


@pytest.mark.parametrize("what", ["masks", "own rule", "magnitude", "deterministic", "bits", "select", "histograms"])
def test_who_asks_takes_the_moments_once(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = bp.Deterministic() if what == "deterministic" else bp.SparseVD()  # ties at infinity are ranked by means
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10)), {"*.weight": method})
    masks = bp.masks(bnet, keep=0.9)
    run: dict[str, Callable[[], object]] = {
        "masks": lambda: bp.masks(bnet, keep=0.9),
        "own rule": lambda: bp.masks(bnet),
        "magnitude": lambda: bp.masks(bnet, keep=0.9, saliency=bp.magnitude),
        "deterministic": lambda: bp.masks(bnet, keep=0.9),
        "bits": lambda: bp.bit_widths(bnet, masks),
        "select": lambda: bp.masks(bnet, snr=0.1),
        "histograms": lambda: bp.plots.snr_histograms(bnet, masks),
    }
    calls = counted(bnet, monkeypatch)
    run[what]()
    assert set(calls.values()) == {1}


def test_a_saliency_of_ones_own_sees_the_net(bnet: bp.BayesianNet) -> None:
    def by_number(net: bp.BayesianNet) -> dict[str, Tensor]:
        assert net is bnet
        return {name: torch.arange(4.0) for name in net.posteriors}

    found = bp.masks(bnet, keep=0.5, saliency=by_number)
    rows = found["attention.out_proj.weight"].all(0).reshape(4, 3)
    assert rows.all(1).tolist() == [False, False, True, True]
