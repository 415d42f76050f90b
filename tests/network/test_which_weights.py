"""What rules reach: no channels of the net's own outputs, no vectors of norms; layers by class; nothing by ``None``."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.network.outputs import output_layers
from bayesprune.network.rules import OutputLayerWarning

ROWS = bp.SparseVD(bp.Channel(0))


class Flow(nn.Module):
    """Its layers stand in another order than they run in."""

    def __init__(self, end: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.head, self.body, self.more = nn.Linear(6, 3), nn.Linear(4, 6), nn.Linear(3, 3)
        self.norm, self.end, self.calls = nn.LayerNorm(3), end, 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.end(self, self.body(x).relu())


def branches(flow: Any, h: Tensor) -> Tensor:
    out = flow.head(h)
    return out if out.sum() > 0 else -out


FLOWS: dict[str, tuple[Callable[[Any, Tensor], Any], set[str]]] = {
    "the last to run": (lambda f, h: f.head(h), {"head.weight"}),
    "under a softmax": (lambda f, h: torch.log_softmax(f.head(h), -1), {"head.weight"}),
    "under a norm and a change of shape": (lambda f, h: f.norm(f.head(h)).view(-1, 3), {"head.weight"}),
    "of two": (lambda f, h: {"a": f.head(h), "b": (f.more(f.head(h)),)}, {"head.weight", "more.weight"}),
    "of two, one a hidden layer": (lambda f, h: (f.head(h), h), {"head.weight", "body.weight"}),
    "a residual": (lambda f, h: f.head(h) + f.more(f.head(h)), {"head.weight", "more.weight"}),
    "by the functional": (lambda f, h: nn.functional.linear(h, f.head.weight), {"head.weight"}),
    "a product of two": (lambda f, h: f.head(h) @ f.more(f.head(h)).T, set()),
}


@pytest.mark.parametrize("kind", FLOWS)
def test_the_layers_that_write_a_nets_outputs_are_found(kind: str) -> None:
    end, names = FLOWS[kind]
    net = Flow(end)
    found = output_layers(net)
    assert found.traced and found.names == names
    assert net.calls == 0 and not net.head.weight.is_meta


def test_a_forward_that_looks_at_numbers_has_its_last_layer_taken() -> None:
    found = output_layers(Flow(branches))
    assert not found.traced and found.names == {"more.weight"}


def test_convolutions_pooled_into_classes_are_outputs_and_those_before_a_head_are_not() -> None:
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert output_layers(pooled).names == {"2.weight"}
    assert output_layers(nn.Sequential(pooled, nn.Linear(3, 2))).names == {"1.weight"}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize("key", ["*.weight", nn.Linear])
@pytest.mark.parametrize("method", [ROWS, bp.Horseshoe(), bp.Gaussian(bp.Channel(-2))])
def test_channels_of_the_outputs_are_left_out_and_that_is_said(key: Any, method: bp.Method) -> None:
    with pytest.warns(OutputLayerWarning, match=r"leaves '4\.weight' out, whose outputs are the net's own"):
        bnet = bp.BayesianNet(mlp(), {key: method})
    assert list(bnet.posteriors) == ["0.weight", "2.weight"]
    assert "4.weight" not in bp.masks(bnet, keep=0.9, scope="layer")


@pytest.mark.parametrize("rules", [{"4.weight": ROWS}, {"0.weight": ROWS, "4.w*": ROWS}, {"0.*": None, "4.*t": ROWS}])
def test_named_for_themselves_they_are_refused(rules: Any) -> None:
    with pytest.raises(ValueError, match=r"Channel\(.*\) of '4\.weight' prunes the net's own outputs.*Block\(1, 6\)"):
        bp.BayesianNet(mlp(), rules)


def test_other_groups_of_the_outputs_are_nobodys_business() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in (bp.SparseVD(), bp.SparseVD(bp.Channel(1)), bp.SparseVD(bp.Block(1, 6))):
            assert "4.weight" in bp.BayesianNet(mlp(), {"4.weight": method, "*.weight": bp.SparseVD()}).posteriors
        part = bp.BayesianNet(nn.Linear(4, 3), {"weight": ROWS})  # a layer alone is a part of something
    assert list(part.posteriors) == ["weight"]


def test_a_last_layer_that_may_be_another_is_left_out_of_a_glob_and_taken_by_name() -> None:
    with pytest.warns(OutputLayerWarning, match="'more.weight' out, the last layer, maybe that of the outputs"):
        assert list(bp.BayesianNet(Flow(branches), {"*.weight": ROWS}).posteriors) == ["head.weight", "body.weight"]
    assert list(bp.BayesianNet(Flow(branches), {"more.weight": ROWS}).posteriors) == ["more.weight"]


class RMSNorm(nn.Module):
    """A norm of somebody's own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))


NORMS = (nn.BatchNorm1d(8), nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.InstanceNorm1d(8, affine=True), RMSNorm(8))


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: type(norm).__name__)
def test_a_glob_passes_over_norms_that_it_does_not_name(norm: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(4, 8), norm, nn.Linear(8, 3))
    assert list(bp.BayesianNet(net, {"*.weight": bp.SparseVD()}).posteriors) == ["0.weight", "2.weight"]
    assert "1.bias" not in bp.BayesianNet(net, {"*": bp.SparseVD()}).posteriors
    named = {"*.weight": bp.SparseVD(), "1.weight": bp.Gaussian()}
    assert list(bp.BayesianNet(net, named).posteriors) == ["0.weight", "1.weight", "2.weight"]
    assert list(bp.BayesianNet(net, {"1.w*": bp.Gaussian()}).posteriors) == ["1.weight"]
    assert list(bp.BayesianNet(net, {type(norm): bp.Gaussian()}).posteriors) == ["1.weight"]


def test_none_leaves_alone_what_it_matches() -> None:
    bnet = bp.BayesianNet(mlp(), {"0.weight": None, "*.weight": bp.SparseVD()})
    assert list(bnet.posteriors) == ["2.weight", "4.weight"]
    assert torch.equal(bnet.means()["0.weight"], bnet.net[0].weight)
    with pytest.raises(ValueError, match=r"'fc\*' matches no parameter"):
        bp.BayesianNet(mlp(), {"fc*": None, "*.weight": bp.SparseVD()})


def test_a_class_of_modules_stands_for_their_weights() -> None:
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(8, 8), nn.MultiheadAttention(8, 2), nn.LSTM(8, 8))
    found = bp.BayesianNet(net, {nn.Linear: bp.SparseVD(), nn.LSTM: bp.Gaussian(), nn.MultiheadAttention: bp.ARD()})
    kinds = {name: type(method).__name__ for name, method in found.methods.items()}
    assert kinds == {
        "2.weight": "SparseVD",
        "3.in_proj_weight": "ARD",
        "3.out_proj.weight": "SparseVD",
        "4.weight_ih_l0": "Gaussian",
        "4.weight_hh_l0": "Gaussian",
    }
    assert list(bp.BayesianNet(net, {nn.Conv1d: None, nn.Module: bp.SparseVD()}).posteriors) == list(kinds)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "a class that is not there": (
        {nn.Conv2d: bp.SparseVD()},
        ValueError,
        "rule Conv2d matches no parameter.*'0.w",
    ),
    "a class of no modules": ({int: bp.SparseVD()}, TypeError, "a class such as nn.Linear, got <class 'int'>"),
    "a module": ({nn.Linear(2, 2): bp.SparseVD()}, TypeError, "a class such as nn.Linear, got Linear"),
    "a class in another's shadow": (
        {nn.Module: bp.SparseVD(), nn.Linear: bp.ARD()},
        ValueError,
        "rule Linear matches no parameter: rule Module before it takes all",
    ),
    "a pattern that does not fit": ({nn.Linear: bp.SparseVD(bp.Heads(5))}, bp.PatternError, "rule Linear does not fit"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_rule_that_cannot_be_is_a_clear_error(what: str) -> None:
    rules, kind, words = WRONG[what]
    with pytest.raises(kind, match=words):
        bp.BayesianNet(mlp(), rules)


def test_to_look_for_the_outputs_changes_nothing_in_the_net() -> None:
    """``module.weight`` of a spectral norm takes a step of its power iteration."""
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3)).train()
    before = {name: x.clone() for name, x in net.state_dict().items()}
    bp.BayesianNet(net, {"2.weight": None, "*original": bp.GroupVD(bp.Channel(0))})
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
