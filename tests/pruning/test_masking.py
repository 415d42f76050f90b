"""From a posterior to masks: signal-to-noise ratios against loops, budgets, thresholds, ties and what is refused."""

import warnings
from collections.abc import Callable, Mapping

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from bayesprune import (
    NM,
    Block,
    Channel,
    Gaussian,
    HardConcrete,
    Heads,
    SparseVD,
    SpikeSlab,
    StructuredDropout,
    Unstructured,
)
from bayesprune.methods import Method
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.pruning.masking import BudgetWarning, EmptyLayerWarning, check_keep, masks, select
from bayesprune.pruning.saliency import lamp, magnitude, random, snr


class Attention(nn.Module):
    """Self-attention and a linear layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 4)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x)[0])


def layers() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 2, groups=2), nn.Flatten(), nn.Linear(30, 10), nn.Linear(10, 7)
    )


# name -> (net, rules)
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Method]]] = {
    "unstructured": (layers, {"*.weight": Gaussian()}),
    "blocks": (layers, {"[34].weight": Gaussian(Block(2, 1)), "*.weight": Gaussian(Block(1, 2))}),
    "ragged blocks": (layers, {"[034].weight": Gaussian(Block(3, 2)), "1.weight": Gaussian(Block(2, 3))}),
    "channels": (layers, {"[01].weight": Gaussian(Channel(0)), "3.weight": Gaussian(Channel(1))}),
    "two of four": (layers, {"[34].weight": Gaussian(NM(2, 4))}),
    "two of four, convolutions": (layers, {"[01].weight": Gaussian(NM(1, 2))}),
    "heads": (Attention, {"attention.*weight": Gaussian(Heads(4))}),
    "heads and blocks": (Attention, {"attention.in_proj_*": Gaussian(Heads(4)), "*.weight": Gaussian(Block(4, 2))}),
    "mixed": (
        layers,
        {
            "0.*": SparseVD(Channel(0)),
            "1.weight": Gaussian(Block(3, 1)),
            "3.*": SparseVD(),
            "4.weight": Gaussian(NM(2, 4)),
        },
    ),
}
every_case = pytest.mark.parametrize("case", CASES)


def fitted(case: str) -> BayesianNet:
    """A net whose posterior has means and scales at random."""
    torch.manual_seed(0)
    make, rules = CASES[case]
    bnet = BayesianNet(make(), rules)
    randomise(bnet)
    return bnet


def randomise(bnet: BayesianNet) -> None:
    for posterior in bnet.posteriors.values():
        posterior.loc.data.normal_()
        posterior.log_scale.data.normal_()


def labels(bnet: BayesianNet, name: str) -> Tensor:
    """The number of the group that each entry belongs to."""
    p = bnet.posteriors[name]
    return p.pattern.expand(torch.arange(p.kept.numel()).reshape(p.kept.shape), p.layout)


def together(bnet: BayesianNet, name: str) -> list[str]:
    return next((names for names in bnet.coupled() if name in names), [name])


def quietly(*args, **kwargs) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return masks(*args, **kwargs)


def group_size(bnet: BayesianNet) -> int:
    """The entries of the largest group, those that share its fate elsewhere included."""
    most = 0
    for name in bnet.posteriors:
        sizes = [torch.bincount(labels(bnet, n).flatten()) for n in together(bnet, name)]
        most = max(most, int(torch.stack(sizes).sum(0).max()))
    return most


# --- the signal-to-noise ratio -------------------------------------------------------------------------------------


@every_case
def test_snr_is_what_a_loop_over_each_groups_entries_gives(case):
    bnet = fitted(case)
    first = next(iter(bnet.posteriors.values()))
    first.prune(torch.rand(first.kept.shape) < 0.7)
    found, moments = bnet.snr(), bnet.moments()
    for name, posterior in bnet.posteriors.items():
        assert found[name].shape == posterior.kept.shape
        for group in range(posterior.kept.numel()):
            signal = noise = 0.0
            for other in together(bnet, name):
                inside = labels(bnet, other) == group
                loc, scale = bnet.posteriors[other].loc[inside], bnet.posteriors[other].log_scale[inside].exp()
                alive = float(bnet.posteriors[other].kept.flatten()[group])
                signal += alive * loc.double().square().sum().item()
                noise += alive * scale.double().square().sum().item()
                assert bool(((moments[other][0][inside] == loc) | (alive == 0)).all())
            expected = (signal / noise) ** 0.5 if signal else 0.0
            assert float(found[name].flatten()[group]) == pytest.approx(expected, rel=1e-5)


def test_snr_is_infinite_without_variance_and_zero_without_mean_or_when_pruned():
    bnet = BayesianNet(nn.Linear(4, 1, bias=False), {"weight": Gaussian()})
    posterior = bnet.posteriors["weight"]
    posterior.loc.data = torch.tensor([[1.0, 0.0, 0.0, 2.0]])
    posterior.log_scale.data = torch.tensor([[-200.0, -200.0, 0.0, 0.0]])
    posterior.prune(torch.tensor([[True, True, True, False]]))
    assert bnet.snr()["weight"].tolist() == [[float("inf"), 0.0, 0.0, 0.0]]


# --- budgets --------------------------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("keep", [0.03, 0.25, 0.42])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_kept_fraction_is_the_budget_to_within_one_group(case, keep, scope):
    bnet = fitted(case)
    found = quietly(bnet, keep=keep, scope=scope)
    assert list(found) == list(bnet.posteriors)
    kept, sizes = {n: int(m.sum()) for n, m in found.items()}, {n: m.numel() for n, m in found.items()}
    slack = group_size(bnet)
    if scope == "layer":
        for name in found:
            assert abs(kept[name] - keep * sizes[name]) <= slack
    else:
        assert abs(sum(kept.values()) - keep * sum(sizes.values())) <= slack


@every_case
def test_masks_have_the_weights_shape_and_cut_no_group_in_two(case):
    bnet = fitted(case)
    for name, mask in quietly(bnet, keep=0.4).items():
        posterior = bnet.posteriors[name]
        assert mask.dtype == torch.bool
        assert mask.shape == posterior.loc.shape
        pooled = posterior.pattern.pool(mask.long(), posterior.layout)
        sizes = posterior.pattern.sizes(posterior.layout)
        assert bool(((pooled == 0) | (pooled == sizes)).all())


@pytest.mark.parametrize("case", [c for c in CASES if "four" not in c and c != "mixed"])
def test_no_group_goes_while_one_of_a_lower_snr_stays(case):
    bnet = fitted(case)
    found, scores = quietly(bnet, keep=0.3), bnet.snr()
    stay, go = [], []
    for name, mask in found.items():
        posterior = bnet.posteriors[name]
        kept = posterior.pattern.pool(mask.long(), posterior.layout) > 0
        stay += scores[name][kept].tolist()
        go += scores[name][~kept].tolist()
    assert min(stay) >= max(go)


def test_a_budget_per_layer_is_met_where_a_global_one_empties_a_layer():
    bnet = fitted("unstructured")
    bnet.posteriors["0.weight"].loc.data.mul_(1e-4)
    assert int(quietly(bnet, keep=0.3)["0.weight"].sum()) == 0
    for name, mask in masks(bnet, keep=0.3, scope="layer").items():
        assert int(mask.sum()) == pytest.approx(0.3 * mask.numel(), abs=1), name


def test_two_of_four_never_keeps_three_however_large_the_budget():
    bnet = fitted("two of four")
    found = quietly(bnet, keep=1.0)
    for name, mask in found.items():
        into = mask.shape[1] - mask.shape[1] % 4
        assert bool((mask[:, :into].unflatten(1, (-1, 4)).sum(2) == 2).all())
        assert int(mask[:, into:].sum(1).max()) <= 2
        scores = bnet.snr()[name][:, :into].unflatten(1, (-1, 4))
        stay = mask[:, :into].unflatten(1, (-1, 4))
        lowest = torch.where(stay, scores, torch.inf).amin(2)
        assert bool((lowest >= torch.where(stay, -torch.inf, scores).amax(2)).all())


@every_case
def test_masks_are_a_subset_of_what_the_posterior_keeps(case):
    bnet = fitted(case)
    torch.manual_seed(1)
    kept = select(bnet, snr(bnet), 0.5)
    bnet.prune(kept)
    randomise(bnet)
    for found in (quietly(bnet, keep=1.0), quietly(bnet, keep=0.45), quietly(bnet, snr=0.0), quietly(bnet, snr=0.9)):
        for name, mask in found.items():
            assert not bool((mask & ~bnet.posteriors[name].entries()).any())
    if "four" not in case:
        whole = quietly(bnet, keep=1.0)
        assert all(torch.equal(whole[n], p.entries()) for n, p in bnet.posteriors.items())


def test_infinite_snr_ties_are_ranked_by_mean_square():
    bnet = fitted("unstructured")
    for posterior in bnet.posteriors.values():
        posterior.log_scale.data.fill_(-200)
    found = quietly(bnet, keep=0.2)
    everything = torch.cat([p.loc.abs().flatten() for p in bnet.posteriors.values()])
    bar = everything.sort(descending=True).values[int(0.2 * len(everything)) - 1]
    for name, posterior in bnet.posteriors.items():
        assert torch.equal(found[name], posterior.loc.abs() >= bar)


def test_infinite_snr_outranks_any_finite_one():
    bnet = BayesianNet(nn.Linear(4, 1, bias=False), {"weight": Gaussian()})
    posterior = bnet.posteriors["weight"]
    posterior.loc.data = torch.tensor([[1e-3, 50.0, 2e-3, 60.0]])
    posterior.log_scale.data = torch.tensor([[-200.0, 0.0, -200.0, 0.0]])
    assert quietly(bnet, keep=0.5)["weight"].tolist() == [[True, False, True, False]]
    assert quietly(bnet, keep=0.25)["weight"].tolist() == [[False, False, True, False]]


# --- thresholds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in CASES if "four" not in c and c != "mixed"])
def test_a_threshold_keeps_the_groups_that_reach_it(case):
    bnet = fitted(case)
    bar = 1.1
    for name, mask in quietly(bnet, snr=bar).items():
        posterior = bnet.posteriors[name]
        assert torch.equal(mask, posterior.pattern.expand(bnet.snr()[name] >= bar, posterior.layout))


def test_a_threshold_leaves_the_n_to_m_rule_in_force():
    bnet = fitted("two of four")
    mask = quietly(bnet, snr=0.0)["3.weight"]
    assert int(mask[:, :28].unflatten(1, (-1, 4)).sum(2).max()) == 2


# --- heads ----------------------------------------------------------------------------------------------------------


def heads_of(mask: Tensor, name: str) -> list[bool]:
    """Per head whether all of it stays; fails where only a part does."""
    parts = mask.reshape(3, 4, 3, -1).transpose(0, 1) if "in_proj" in name else mask.reshape(12, 4, 3).transpose(0, 1)
    flat = parts.flatten(1)
    assert bool((flat.all(1) == flat.any(1)).all())
    return flat.all(1).tolist()


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("saliency", [snr, magnitude, lamp, random])
def test_an_attentions_projections_lose_the_same_heads(scope, saliency):
    bnet = fitted("heads")
    assert bnet.coupled() == [["attention.in_proj_weight", "attention.out_proj.weight"]]
    found = quietly(bnet, keep=0.5, scope=scope, saliency=saliency)
    lost = [heads_of(mask, name) for name, mask in found.items()]
    assert lost[0] == lost[1]
    assert sum(lost[0]) == 2


def test_heads_are_ranked_by_what_all_their_projections_say():
    bnet = fitted("heads")
    for posterior in bnet.posteriors.values():
        posterior.log_scale.data.zero_()
        posterior.loc.data.fill_(1.0)
    bnet.posteriors["attention.in_proj_weight"].loc.data[24:27].fill_(9.0)  # the first head's values
    bnet.posteriors["attention.out_proj.weight"].loc.data[:, 9:].fill_(9.0)  # the last head's columns
    assert heads_of(quietly(bnet, keep=0.5)["attention.in_proj_weight"], "in_proj") == [True, False, False, True]


# --- other saliencies -----------------------------------------------------------------------------------------------


def test_magnitude_is_each_groups_root_mean_square_in_units_of_its_weights():
    bnet = fitted("blocks")
    bnet.posteriors["3.weight"].prune(torch.rand(5, 30) < 0.6)
    found = magnitude(bnet)
    for name, posterior in bnet.posteriors.items():
        alive = posterior.entries()
        unit = posterior.loc.detach()[alive].square().mean().sqrt()
        for group, kept in enumerate(posterior.kept.flatten()):
            inside = posterior.loc[labels(bnet, name) == group]
            expected = float(inside.detach().square().mean().sqrt() / unit) if kept else 0.0
            assert float(found[name].flatten()[group]) == pytest.approx(expected, rel=1e-4)


def test_the_null_rival_scores_what_is_left_between_zero_and_one():
    bnet = fitted("blocks")
    bnet.posteriors["3.weight"].prune(torch.rand(5, 30) < 0.6)
    for name, score in random(bnet).items():
        kept = bnet.posteriors[name].kept
        assert bool((score[kept] > 0).all()) and bool((score[~kept] == 0).all())
        assert float(score.max()) < 1


# --- warnings and errors --------------------------------------------------------------------------------------------


def warned(bnet: BayesianNet, **kwargs) -> Mapping[type[Warning], list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        masks(bnet, **kwargs)
    kinds = (EmptyLayerWarning, BudgetWarning)
    return {kind: [str(w.message) for w in caught if w.category is kind] for kind in kinds}


def test_a_layer_of_which_nothing_is_kept_is_named():
    bnet = fitted("unstructured")
    bnet.posteriors["1.weight"].loc.data.mul_(1e-4)
    for kwargs in ({"keep": 0.3}, {"snr": 0.1}):
        (message,) = warned(bnet, **kwargs)[EmptyLayerWarning]
        assert "'1.weight'" in message
    assert not warned(bnet, keep=0.3, scope="layer")[EmptyLayerWarning]


def test_a_budget_far_below_the_methods_own_threshold_is_warned_of():
    bnet = BayesianNet(layers(), {"*.weight": SparseVD()})
    randomise(bnet)
    natural = sum(int((s >= SparseVD.snr_threshold).sum()) for s in bnet.snr().values())
    total = sum(p.kept.numel() for p in bnet.posteriors.values())
    (message,) = warned(bnet, keep=0.4 * natural / total)[BudgetWarning]
    assert f"{natural / total:.2%}" in message
    assert not warned(bnet, keep=0.6 * natural / total)[BudgetWarning]


def test_a_method_without_a_threshold_warns_of_no_budget():
    assert not warned(fitted("unstructured"), keep=0.01)[BudgetWarning]


def test_without_budget_and_threshold_each_methods_own_rule_decides():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 2))
    rules = {"0.*": SparseVD(Block(1, 2)), "1.*": SpikeSlab(), "2.*": StructuredDropout(Channel(0))}
    bnet = BayesianNet(net, {g.replace("*", "weight"): m for g, m in rules.items()})
    with torch.no_grad():
        for posterior in bnet.posteriors.values():
            for parameter in posterior.parameters():
                parameter.add_(2 * torch.randn_like(parameter))
    snr, logit = bnet.snr(), bnet.posteriors["1.weight"].get_parameter("logit")
    found = masks(bnet)
    assert torch.equal(found["0.weight"], (snr["0.weight"] >= 0.2231).repeat_interleave(2, 1))
    assert torch.equal(found["1.weight"], logit > 0)
    assert torch.equal(found["2.weight"], (snr["2.weight"] >= 1)[:, None].expand(3, 4))
    assert set(bnet.inclusion()) == {"1.weight"}
    torch.testing.assert_close(bnet.inclusion()["1.weight"], logit.detach().sigmoid())
    bnet.prune({"1.weight": torch.zeros(4, 5, dtype=torch.bool)})
    assert not bool(bnet.inclusion()["1.weight"].any())


def test_heads_whose_gates_disagree_stay_by_the_methods_own_rule():
    bnet = BayesianNet(Attention(), {"attention.*weight": HardConcrete(Heads(4))})
    joined = bnet.coupled()[0]
    one, two = (bnet.posteriors[n].get_parameter("log_alpha").data for n in joined)
    one[:2] = -9.0
    two[1:3] = -9.0
    found = masks(bnet)
    for name in joined:
        p = bnet.posteriors[name]
        assert torch.equal(found[name], p.pattern.expand(torch.tensor([True, False, True, True]), p.layout))


@pytest.fixture
def unchecked(monkeypatch):
    """The library as users have it, without the type checks of the test run."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({}, r"Gaussian over '.*weight' has no rule of its own.*say keep="),
        ({"keep": 0.5, "snr": 0.2}, "keep= .*snr= .*not both"),
        ({"keep": 0}, r"\(0, 1\], got 0"),
        ({"keep": 1.5}, r"\(0, 1\], got 1.5"),
        ({"keep": -0.1}, r"\(0, 1\], got -0.1"),
        ({"keep": float("nan")}, r"\(0, 1\], got nan"),
        ({"keep": True}, r"\(0, 1\], got True"),
        ({"keep": "half"}, r"\(0, 1\], got 'half'"),
        ({"keep": 0.5, "scope": "row"}, r"scope is one of \('global', 'layer'\), got 'row'"),
        ({"snr": 0.5, "scope": "row"}, r"scope is one of \('global', 'layer'\), got 'row'"),
        ({"snr": -1.0}, "threshold ≥ 0 .* got -1.0"),
        ({"snr": float("nan")}, "threshold ≥ 0 .* got nan"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(kwargs, says):
    with pytest.raises(ValueError, match=says):
        masks(fitted("unstructured"), **kwargs)


@pytest.mark.usefixtures("unchecked")
def test_keep_may_be_the_integer_one():
    check_keep(1)
    assert all(bool(m.all()) for m in masks(fitted("unstructured"), keep=1).values())


def test_masks_are_the_callers_own():
    bnet = fitted("unstructured")
    masks(bnet, snr=0.0)["3.weight"].zero_()
    assert bool(bnet.posteriors["3.weight"].kept.all())
    assert bool(masks(bnet, snr=0.0)["3.weight"].all())


def test_a_net_without_posteriors_has_no_masks():
    assert masks(BayesianNet(nn.Linear(2, 2), {}), keep=0.5) == {}


def test_unstructured_is_what_methods_take_unless_told():
    assert SparseVD().pattern == Gaussian().pattern == Unstructured()
