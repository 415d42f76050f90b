"""The contract of every method over every kind of layer, in a net: sites, KL, moments, gradients, pruning, copies."""

import copy
import math
import pickle
import statistics
from collections.abc import Callable
from functools import cache

import pytest
import torch
from pyro import poutine
from support.layers import LAYERS, backward, labels, prune_some, seed, some, untouched
from support.methods import CASES, COSTS, DIVERGENCES, KL_SLACK, all_or_some, family, kl_mean, kl_of, samples, traced
from support.pairs import cover
from support.passes import CERTAIN, draw_and_run
from torch import Tensor, nn

from bayesprune.draws.gaussian import Estimator, GaussianDraw
from bayesprune.fitting.elbo import MeanFieldELBO
from bayesprune.layout import Layout
from bayesprune.methods import Method, Posterior, SparseVD
from bayesprune.methods.weight import Weight
from bayesprune.network.bayesian_net import BayesianNet
from bayesprune.patterns import Heads, Pattern, Unstructured
from bayesprune.pruning.masking import select

JOINED = ("attention", "attention over other widths", "encoder layer")
OWN_LAYOUTS = ("grouped transposed conv", "Hugging Face Conv1D", "attention")
SEVERAL = ("attention", "encoder layer", "LSTM", "batch norm")

every_layer = pytest.mark.parametrize("layer", LAYERS)
every_method = pytest.mark.parametrize("case", CASES)
every_own_layout = pytest.mark.parametrize("layer", OWN_LAYOUTS)

# Each law meets every layer with every one of its patterns and with a method of every family, and every method with
# every kind of pattern; each layer meets each method under some law.
Row = tuple[str, str, Pattern, str]
CROSS: list[Row] = [
    (law, layer, pattern, case)
    for law in ("sites", "groups", "starts", "pruned", "copies")
    for layer in LAYERS
    for pattern in LAYERS[layer].patterns
    for case in CASES
]
ROWS = cover(
    CROSS,
    lambda row: row[:3],
    lambda row: (row[0], row[1], family(row[3])),
    lambda row: (row[0], type(row[2]), row[3]),
    lambda row: (row[1], row[3]),
)


def every_method_and_layer(law: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("layer", "pattern", "case"), [row[1:] for row in ROWS if row[0] == law], ids=str)


def spread(bnet: BayesianNet) -> None:
    """Bring the posteriors away from their start, as a fit would."""
    with torch.no_grad():
        for posterior in bnet.posteriors.values():
            for parameter in posterior.parameters():
                parameter += 0.2 + torch.rand_like(parameter)


# --- sites and the prior ----------------------------------------------------------------------------------------------


@every_method_and_layer("sites")
def test_the_prior_draws_outputs_from_the_guides_sites_in_the_same_order(
    layer: str, pattern: Pattern, case: str
) -> None:
    at = LAYERS[layer]
    net, bnet = at.over(CASES[case](pattern))
    output = bnet.prior(*at.inputs)
    assert output.shape == net(*at.inputs).shape
    assert bool(torch.isfinite(output).all())
    for _ in range(2):
        prior, guide = poutine.trace(bnet).get_trace(*at.inputs), poutine.trace(bnet.guide).get_trace(*at.inputs)
        assert samples(prior) == samples(guide)
        weights = [name for name, _ in net.named_parameters()]
        owners = [site if site in weights else site.rpartition(".")[0] for site in samples(prior)]
        assert owners == sorted(owners, key=list(bnet.posteriors).index)
        for name in samples(prior):
            assert prior.nodes[name]["value"].shape == guide.nodes[name]["value"].shape
        prune_some(bnet)


# --- what a method makes of a layer -----------------------------------------------------------------------------------


class Listed(Pattern):
    """Groups by a list: the number of each entry's group, for a vector. The grid has a shape that no vector has."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers, self.n = numbers, int(numbers.max()) + 1

    def groups(self, layout: Layout) -> tuple[int, ...]:
        return (self.n, 1)

    def pool(self, x: Tensor, layout: Layout) -> Tensor:
        return x.new_zeros(self.n).index_add(0, self.numbers, x)[:, None]

    def expand(self, g: Tensor, layout: Layout) -> Tensor:
        return g[self.numbers, 0]


def as_a_vector(net: nn.Module, name: str, posterior: Posterior, method: Callable[[Pattern], Method]) -> Posterior:
    """The same posterior over the flattened weight, its groups by a list: no layout plays a part."""
    groups = labels(net, name, posterior.pattern).expand(posterior.layout.shape).flatten()
    twin = method(Listed(groups)).over(Weight(name, net.get_parameter(name).flatten(), Listed(groups)))
    with torch.no_grad():
        for mine, theirs in zip(twin.parameters(), posterior.parameters(), strict=True):
            mine.copy_(theirs.reshape(mine.shape))
        twin.kept.copy_(posterior.kept.reshape(twin.kept.shape))
    return twin


@every_method_and_layer("groups")
def test_a_method_sees_groups_and_nothing_else_of_a_layer(layer: str, pattern: Pattern, case: str) -> None:
    """KL and moments are those of the flattened weight whose groups are listed one by one."""
    net, bnet = LAYERS[layer].over(CASES[case](pattern))
    spread(bnet)
    prune_some(bnet)
    for name, posterior in bnet.posteriors.items():
        twin = as_a_vector(net, name, posterior, CASES[case])
        kls = []
        for p in (posterior, twin):
            seed(1)
            kls.append(kl_of(p).item())
        assert kls[0] == pytest.approx(kls[1], rel=1e-5, abs=1e-5), name
        for mine, theirs in zip(posterior.moments(), twin.moments(), strict=True):
            torch.testing.assert_close(mine.flatten(), theirs)


@pytest.mark.parametrize(
    ("layer", "pattern", "case"),
    cover([row[1:] for row in CROSS if row[1] in SEVERAL], lambda row: row[:2], lambda row: row[2]),
    ids=str,
)
def test_the_nets_kl_is_the_sum_over_its_weights(layer: str, pattern: Pattern, case: str) -> None:
    at = LAYERS[layer]
    _, bnet = at.over(CASES[case](pattern))
    bnet.eval()
    spread(bnet)
    elbo = MeanFieldELBO()
    seed(1)
    elbo.differentiable_loss(bnet, bnet.guide, *at.inputs)
    seed(1)
    assert elbo.kl.item() == pytest.approx(sum(kl_of(p).item() for p in bnet.posteriors.values()), rel=1e-5)


@every_own_layout
@pytest.mark.parametrize("case", DIVERGENCES)
def test_kl_is_monte_carlo_up_to_the_declared_offset(case: str, layer: str) -> None:
    _, bnet = LAYERS[layer].over(CASES[case](LAYERS[layer].patterns[3]))
    spread(bnet)
    for posterior in bnet.posteriors.values():
        n, ratios = 16, []
        with torch.no_grad():
            for _ in range(n):
                under_q, under_p = traced(posterior)
                pairs = [(under_q.nodes[name], under_p.nodes[name]["fn"]) for name in samples(under_p)]
                offset = sum(getattr(p.base_dist, "kl_offset", 0.0) * p.event_shape.numel() for _, p in pairs)
                terms = [q["fn"].log_prob(q["value"]) - p.log_prob(q["value"]) for q, p in pairs]
                ratios.append(float(sum(terms)) - offset)
        kl, error = kl_mean(posterior, n)
        slack = KL_SLACK.get(case, 0.0) * math.prod(posterior.layout.shape) + 1e-3
        assert abs(statistics.fmean(ratios) - kl) <= 5 * math.hypot(statistics.stdev(ratios) / n**0.5, error) + slack


@every_own_layout
@every_method
def test_moments_are_those_of_the_nets_draws(case: str, layer: str) -> None:
    _, bnet = LAYERS[layer].over(CASES[case](LAYERS[layer].patterns[3]))
    spread(bnet)
    bnet.eval()  # a relaxation is for training
    n = 60
    draws = [bnet.draw() for _ in range(n)]
    for name, (mean, var) in bnet.moments().items():
        assert not draws[0][name].requires_grad
        centred = torch.stack([draw[name] for draw in draws]).double() - mean
        assert bool((centred.mean(0).abs() <= 6 * (var / n).sqrt() + 1e-6).all())  # a gate's draws are skewed
        if bool(var.any()):
            ratios = (centred.square() / var).flatten(1).mean(1)  # entries of a group may move together
            assert abs(float(ratios.mean()) - 1) <= 5 * float(ratios.std()) / math.sqrt(n)


# --- starts -----------------------------------------------------------------------------------------------------------


@every_method_and_layer("starts")
def test_the_means_give_the_nets_own_outputs_at_the_start(layer: str, pattern: Pattern, case: str) -> None:
    at = LAYERS[layer]
    net, bnet = at.over(CASES[case](pattern))
    net.eval(), bnet.eval()
    torch.testing.assert_close(bnet.run(bnet.means(), *at.inputs), net(*at.inputs), rtol=1e-3, atol=1e-3)


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_without_variance_a_layer_gives_its_own_outputs(layer: str, training: bool) -> None:
    at = LAYERS[layer]
    net, bnet = at.over(CERTAIN)
    with untouched(net):
        bnet.train(training)
        for _ in range(2):
            torch.testing.assert_close(draw_and_run(bnet, *at.inputs), at.net().train(training)(*at.inputs))


# --- gradients --------------------------------------------------------------------------------------------------------

GATED = [case for case in CASES if case in COSTS or "spike" in case]  # in one draw a gate may be shut, or as good as


@cache
def draws_lazily(case: str) -> bool:
    posterior = CASES[case](Unstructured()).over(Weight("w", torch.ones(2, 2), Unstructured()))
    return any(isinstance(site.get("value"), GaussianDraw) for site in traced(posterior)[0].nodes.values())


ESTIMATORS: list[tuple[str, Estimator]] = [  # for other draws there is one way only
    *((case, "local") for case in CASES),
    *((case, "weight") for case in CASES if draws_lazily(case)),
    *((case, "flipout") for case in ("sparse_vd", "normal_jeffreys", "group_vd_tied")),
]
WAYS = [
    (layer, pattern, case, estimator)
    for layer in LAYERS
    for pattern in LAYERS[layer].patterns
    for case, estimator in ESTIMATORS
]


@pytest.mark.parametrize(
    ("layer", "pattern", "case", "estimator"),
    cover(
        WAYS,
        lambda row: row[:2],
        lambda row: (row[0], row[3], draws_lazily(row[2])),
        lambda row: (type(row[1]), *row[2:]),
    ),
    ids=str,
)
def test_gradients_reach_every_entry_of_every_posterior(
    layer: str, pattern: Pattern, case: str, estimator: Estimator
) -> None:
    at = LAYERS[layer]
    net, bnet = at.over(CASES[case](pattern), estimator)
    partly = case in COSTS or layer == "attention's biases"  # a softmax does not see the keys' biases
    with untouched(net):
        for _ in range(20 if case in GATED else 1):
            output = backward(bnet, at.inputs, 1 if estimator == "weight" else 2)
            slopes = {name: p.grad for name, p in bnet._posteriors.named_parameters() if p.grad is not None}
            missed = [name for name, slope in slopes.items() if not (slope.any() if partly else slope.all())]
            if not missed:
                break
    assert missed == []
    assert slopes.keys() == dict(bnet._posteriors.named_parameters()).keys()
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes.values())
    assert output.shape == net(*at.inputs).shape


@every_method
def test_running_statistics_stay_deterministic_and_are_the_copys_own(case: str) -> None:
    at = LAYERS["batch norm"]
    net, bnet = at.over(CASES[case](Unstructured()))
    with untouched(net):
        backward(bnet, at.inputs, 2)
    trained = at.net()
    for _ in range(2):
        trained(*at.inputs)
    one, two = bnet.draw(), bnet.draw()
    for name, value in trained.named_buffers():
        torch.testing.assert_close(one[name], value)
        assert torch.equal(one[name], two[name])
    assert not any("running" in site for site in samples(poutine.trace(bnet).get_trace(*at.inputs)))


# --- pruning ----------------------------------------------------------------------------------------------------------


@every_layer
def test_every_pattern_groups_the_entries_that_play_its_roles(layer: str) -> None:
    for pattern in LAYERS[layer].patterns:
        net, bnet = LAYERS[layer].over(SparseVD(pattern))
        for name, posterior in bnet.posteriors.items():
            numbers = torch.arange(posterior.kept.numel()).reshape(posterior.kept.shape)
            found = pattern.expand(numbers, posterior.layout)
            assert torch.equal(found, labels(net, name, pattern).expand(found.shape)), (name, pattern)
            counts = pattern.pool(torch.ones(found.shape, dtype=torch.int64), posterior.layout)
            assert torch.equal(counts.flatten(), found.flatten().bincount()), (name, pattern)


@every_method_and_layer("pruned")
def test_pruned_groups_are_zero_in_the_tensors_own_layout_and_no_others(
    layer: str, pattern: Pattern, case: str
) -> None:
    net, bnet = LAYERS[layer].over(CASES[case](pattern))
    prune_some(bnet)
    draws, means = [bnet.draw() for _ in range(20 if case in COSTS else 1)], bnet.means()
    for name, posterior in bnet.posteriors.items():
        kept = some(posterior).flatten()[labels(net, name, pattern)].expand(posterior.layout.shape)
        weights = torch.stack([draw[name] for draw in draws])
        assert bool((weights[:, ~kept] == 0).all()), name
        assert all_or_some(case, weights[:, kept] != 0), name
        assert torch.equal(means[name] != 0, kept), name


@pytest.mark.parametrize("layer", JOINED)
@every_method
def test_the_projections_of_an_attention_lose_the_same_heads(case: str, layer: str) -> None:
    net, bnet = LAYERS[layer].over(CASES[case](Heads(2)))
    (joined,) = bnet.coupled()
    assert joined == [name for name in bnet.posteriors if "proj" in name]
    bnet.prune(select(bnet, {name: torch.rand(2) for name in bnet.posteriors}, keep=0.5, scope="layer"))
    (shut,) = {int((~bnet.posteriors[name].kept).nonzero()) for name in joined}
    for name, (mean, _) in bnet.moments().items():
        if name in joined:
            assert torch.equal(mean == 0, (labels(net, name, Heads(2)) == shut).expand(mean.shape)), name


# --- copies -----------------------------------------------------------------------------------------------------------


@every_method_and_layer("copies")
def test_copies_of_the_net_draw_the_same(layer: str, pattern: Pattern, case: str) -> None:
    at, method = LAYERS[layer], CASES[case](pattern)
    _, bnet = at.over(method)
    spread(bnet)
    prune_some(bnet)
    bnet.draw()  # a copy must also work after use
    loaded = BayesianNet(at.make(), {at.glob: method})
    loaded.load_state_dict(bnet.state_dict())
    draws = []
    for twin in (bnet, copy.deepcopy(bnet), pickle.loads(pickle.dumps(bnet)), loaded):
        seed(3)
        draws.append(twin.draw())
    for draw in draws[1:]:
        assert list(draw) == list(draws[0])
        assert all(torch.equal(value, draws[0][name]) for name, value in draw.items())
