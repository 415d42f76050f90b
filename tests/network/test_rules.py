"""Rules: which method each parameter gets, and errors that repeat the request back."""

import jaxtyping
import pytest
import torch
from torch import nn

from bayesprune import NM, Block, Channel, Gaussian, Heads, PatternError, SparseVD
from bayesprune.network.rules import posteriors_of


def net() -> nn.Module:
    """Parameters conv.weight, conv.bias, fc1.weight, fc1.bias, fc2.weight, fc2.bias."""
    torch.manual_seed(0)
    parts = {"conv": nn.Conv2d(2, 4, 3), "fc1": nn.Linear(6, 5), "fc2": nn.Linear(5, 3)}
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    return module


def test_a_glob_takes_what_it_matches_in_the_nets_order_and_leaves_the_rest():
    assert list(posteriors_of(net(), {"fc*.weight": SparseVD()})) == ["fc1.weight", "fc2.weight"]
    assert list(posteriors_of(net(), {"fc2.*": SparseVD(), "conv.weight": SparseVD()})) == [
        "conv.weight",
        "fc2.weight",
        "fc2.bias",
    ]
    assert list(posteriors_of(net(), {"fc[13].bias": SparseVD()})) == ["fc1.bias"]


def test_the_first_rule_that_matches_wins():
    first, second, third = SparseVD(Block(1, 1)), Gaussian(Block(5, 1)), SparseVD(Channel(0))
    found = posteriors_of(net(), {"fc2.weight": first, "fc*.weight": second, "*.weight": third})
    assert {n: m for n, (m, _) in found.items()} == {"fc2.weight": first, "fc1.weight": second, "conv.weight": third}


def test_names_are_matched_as_they_are_written_case_and_all():
    with pytest.raises(ValueError, match="'FC\\*'"):
        posteriors_of(net(), {"FC*": SparseVD()})


def test_a_posterior_starts_at_the_weight_and_shares_no_memory_with_it():
    module = net()
    before = module.fc1.weight.detach().clone()
    _, posterior = posteriors_of(module, {"fc1.weight": SparseVD()})["fc1.weight"]
    assert torch.equal(posterior.moments()[0], before)
    posterior.loc.data.zero_()
    assert torch.equal(module.fc1.weight, before)


def test_a_posterior_knows_its_weights_layout():
    module = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.MultiheadAttention(6, 2))
    found = posteriors_of(module, {"0.weight": SparseVD(Block(3, 2)), "1.*proj*weight": SparseVD(Heads(2))})
    assert found["0.weight"][1].kept.shape == (2, 1, 2, 2)
    assert found["1.in_proj_weight"][1].layout.heads.packed == 3
    assert found["1.out_proj.weight"][1].layout.coupling == found["1.in_proj_weight"][1].layout.coupling == "1"


def test_a_rule_that_matches_nothing_names_itself_and_the_parameters():
    with pytest.raises(ValueError, match=r"rule 'fc3\*' matches no parameter.*'conv.weight'.*'fc2.bias'"):
        posteriors_of(net(), {"fc*": SparseVD(), "fc3*": SparseVD()})


def test_a_rule_in_another_ones_shadow_names_both():
    with pytest.raises(ValueError, match=r"rule 'fc1.weight' matches no parameter: rule '\*.weight' before it"):
        posteriors_of(net(), {"*.weight": SparseVD(), "fc1.weight": Gaussian()})


@pytest.mark.parametrize(
    ("glob", "method", "says"),
    [
        ("fc*.weight", SparseVD(Block(4, 1)), r"rule 'fc\*.weight'.*'fc2.weight'.*Block\(4, 1\).*\(3, 5\)"),
        ("*", Gaussian(Channel(1)), r"rule '\*'.*'conv.bias'.*Channel\(1\).*\(4,\)"),
        ("fc1.weight", SparseVD(Heads(2)), r"rule 'fc1.weight'.*'fc1.weight'.*Heads\(2\).*\(5, 6\)"),
        ("conv.weight", SparseVD(NM(2, 4)), r"rule 'conv.weight'.*'conv.weight'.*NM\(2, 4\).*\(4, 2, 3, 3\)"),
    ],
)
def test_a_pattern_that_does_not_fit_names_rule_parameter_pattern_and_shape(glob, method, says):
    with pytest.raises(PatternError, match=says):
        posteriors_of(net(), {glob: method})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(bad):
    module = net()
    module.fc1.weight.data[0, 0] = bad
    with pytest.raises(ValueError, match=r"'fc1.weight' holds NaN or infinity"):
        posteriors_of(module, {"*.weight": SparseVD()})
    posteriors_of(module, {"fc2.weight": SparseVD()})  # it is nobody's business where no rule asks for it


def test_a_complex_weight_is_named():
    module = nn.Linear(2, 2, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"'weight' is torch.complex64"):
        posteriors_of(module, {"weight": SparseVD()})


def test_a_weight_without_a_shape_yet_is_named():
    with pytest.raises(ValueError, match=r"'0.weight' has no shape yet"):
        posteriors_of(nn.Sequential(nn.LazyLinear(3)), {"*": SparseVD()})


@pytest.mark.parametrize("value", [SparseVD, "SparseVD", 0.1, Block(2, 1)])
def test_a_value_that_is_no_method_is_a_type_error_that_names_its_rule(value, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the check that users meet
    with pytest.raises(TypeError, match=r"rule 'fc\*' needs a method"):
        posteriors_of(net(), {"fc*": value})


def test_no_rules_make_no_posteriors():
    assert posteriors_of(net(), {}) == {}


def test_a_tied_weight_is_one_parameter_under_its_first_name():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    assert list(posteriors_of(module, {"*.weight": SparseVD()})) == ["0.weight"]
    with pytest.raises(ValueError, match=r"rule '1.weight' matches no parameter: '1.weight' is tied to '0.weight'"):
        posteriors_of(module, {"1.weight": SparseVD()})
    with pytest.raises(ValueError, match=r"rule '1.w\*' matches no parameter: rule '\*' before it takes all"):
        posteriors_of(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), {"*": SparseVD(), "1.w*": SparseVD()})
