"""BayesianNet: an untouched net, and one posterior per matched weight."""

import copy
import io
import itertools
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from support.passes import CERTAIN, Images, draw_and_run, images, train, without_gradient
from torch import Tensor, nn

from bayesprune import Block, Channel, Gaussian, SparseVD
from bayesprune.fitting.elbo import MeanFieldELBO
from bayesprune.fitting.supervised import classify
from bayesprune.network.bayesian_net import BayesianNet

# --- the user's net -------------------------------------------------------------------------------------------------


def snapshot(net: nn.Module) -> dict[str, Any]:
    return {
        "values": {n: t.detach().clone() for n, t in itertools.chain(net.named_parameters(), net.named_buffers())},
        "keys": list(net.state_dict()),
        "classes": [(n, type(m)) for n, m in net.named_modules()],
        "modes": [(n, m.training) for n, m in net.named_modules()],
        "grads": [(n, p.requires_grad, p.grad is None) for n, p in net.named_parameters()],
        "hooks": [(n, list(m._forward_hooks), list(m._forward_pre_hooks)) for n, m in net.named_modules()],
        "attributes": [(n, sorted(m.__dict__)) for n, m in net.named_modules()],
    }


@pytest.mark.parametrize("estimator", ["local", "weight", "flipout"])
@pytest.mark.parametrize("mode", [True, False])
def test_training_leaves_the_users_net_as_it_was(estimator, mode):
    net, bnet, x = images(estimator=estimator)
    net.train(mode)
    fired = []
    net.fc.register_forward_hook(lambda *_: fired.append("fc"))
    net.conv.register_forward_pre_hook(lambda *_: fired.append("conv"))
    before = snapshot(net)
    model, optimizer = classify(bnet, size=8), torch.optim.Adam(bnet.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        TraceMeanField_ELBO().differentiable_loss(model, bnet.guide, x, torch.arange(8) % 3).backward()
        optimizer.step()
    bnet.eval()
    draw_and_run(bnet, x)
    after = snapshot(net)
    for name, value in before.pop("values").items():
        assert torch.equal(after["values"][name], value), name
    assert {k: after[k] for k in before} == before
    assert fired == ["conv", "fc"] * 4
    assert bnet.net is net
    assert len(pyro.get_param_store()) == 0


def test_an_exception_in_the_net_puts_everything_back():
    net, bnet, x = images()
    bnet.train()
    net.eval()
    before = snapshot(net)
    with pytest.raises(RuntimeError):
        draw_and_run(bnet, x[:, :, :2])
    after = snapshot(net)
    assert all(torch.equal(after["values"][n], v) for n, v in before.pop("values").items())
    assert {k: after[k] for k in before} == before


def test_batch_statistics_gather_in_copies_and_reach_the_means():
    net, bnet, x = images()
    bnet.train()
    draw_and_run(bnet, x)
    moved = bnet.means()["norm.running_mean"]
    assert bool((net.norm.running_mean == 0).all())
    assert not bool((moved == 0).any())
    assert int(bnet.means()["norm.num_batches_tracked"]) == 1
    bnet.eval()
    draw_and_run(bnet, x)
    assert torch.equal(bnet.means()["norm.running_mean"], moved)


def test_a_submodule_frozen_in_a_training_net_stays_frozen():
    net, bnet, x = images()
    net.train()
    net.norm.eval()
    bnet.train()
    draw_and_run(bnet, x)
    assert bool((bnet.means()["norm.running_mean"] == 0).all())
    assert not net.norm.training
    assert net.drop.training


def test_a_net_handed_over_in_eval_mode_trains_in_training_mode():
    net, bnet, x = images()
    net.eval()
    bnet.train()
    draw_and_run(bnet, x)
    assert not bool((bnet.means()["norm.running_mean"] == 0).any())
    assert not any(m.training for m in net.modules())


def test_dropout_drops_in_training_alone():
    net, bnet, x = images(rules={})
    net.drop.p = 0.9
    assert not torch.equal(bnet.train()(x), bnet(x))
    bnet.eval()
    net.train()
    assert torch.equal(bnet(x), bnet(x))


def test_what_no_rule_matches_is_deterministic_and_trained_unless_it_was_frozen():
    net, bnet, x = images()
    train(bnet, x)
    grads = {n: p.grad for n, p in bnet.named_parameters()}
    assert {n for n, p in bnet.named_parameters() if not p.requires_grad} == {"_rest.gain"}
    assert without_gradient(bnet) == ["_rest.gain"]
    assert grads["_rest.gain"] is None
    assert all(p.grad is None for p in net.parameters())
    sites = {n: s["type"] for n, s in poutine.trace(bnet).get_trace(x).nodes.items()}
    assert sites["conv.weight"] == "sample"
    assert sites["conv.bias"] == sites["norm.weight"] == sites["gain"] == "param"
    assert "shift" not in sites


# --- means, copies, files -------------------------------------------------------------------------------------------


def test_means_hold_every_parameter_and_buffer_and_are_the_callers_own():
    net, bnet, _ = images()
    means = bnet.means()
    expected = dict(itertools.chain(net.named_parameters(), net.named_buffers()))
    assert {*means, *means.unsaved} == set(expected)
    for name, value in expected.items():
        assert torch.equal(means[name], value)
        assert not means[name].requires_grad
        means[name].zero_()
    assert bool(bnet.means()["conv.weight"].any())


def test_without_variance_it_is_the_net():
    net, bnet, x = images(rules={"conv.weight": CERTAIN, "fc.weight": CERTAIN})
    bnet.eval()
    net.eval()
    expected = net(x)
    torch.testing.assert_close(draw_and_run(bnet, x), expected)
    torch.testing.assert_close(bnet.run(bnet.draw(), x), expected)
    torch.testing.assert_close(bnet.run(bnet.means(), x), expected)
    for estimator in ("local", "flipout", "weight"):
        bnet.estimator = estimator
        net.drop.p = 0.0
        bnet.train(), net.train()
        for _ in range(2):
            torch.testing.assert_close(draw_and_run(bnet, x), net(x))


def test_trained_means_in_the_users_class_give_the_same_outputs():
    _, bnet, x = images()
    train(bnet, x)
    bnet.eval()
    plain = Images().eval()
    plain.load_state_dict({n: t for n, t in bnet.means().items() if n != "unsaved"})
    torch.testing.assert_close(plain(x), bnet.run(bnet.means(), x))


def move(bnet: BayesianNet) -> None:
    """Somewhere a fresh one is not: parameters, buffers and what is pruned."""
    for tensor in itertools.chain(bnet.parameters(), bnet.buffers()):
        if tensor.is_floating_point():
            tensor.data.add_(torch.rand_like(tensor))
    bnet.posteriors["fc.weight"].prune(torch.rand(3, 16) < 0.5)


def same(a: BayesianNet, b: BayesianNet) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return list(left) == list(right) and all(torch.equal(left[n], right[n]) for n in left)


def test_a_state_dict_carries_everything_to_a_fresh_one():
    _, bnet, _ = images()
    move(bnet)
    _, other, _ = images(seed=1)
    assert not same(bnet, other)
    other.load_state_dict(bnet.state_dict())
    assert same(bnet, other)
    assert all(torch.equal(other.means()[n], m) for n, m in bnet.means().items())
    assert all(torch.equal(other.snr()[n], s) for n, s in bnet.snr().items())


def test_keys_of_the_state_read_like_the_nets():
    _, bnet, _ = images()
    assert {"_posteriors.fc.weight.loc", "_rest.fc.bias", "_rest.norm.running_mean"} <= set(bnet.state_dict())


@pytest.mark.parametrize("how", ["deepcopy", "file"])
def test_a_copy_is_equal_and_independent(how):
    net, bnet, x = images()
    train(bnet, x)
    bnet.zero_grad()
    move(bnet)
    if how == "deepcopy":
        twin = copy.deepcopy(bnet)
    else:
        file = io.BytesIO()
        torch.save(bnet, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert same(twin, bnet)
    outputs = []
    for each in (bnet.eval(), twin.eval()):
        torch.manual_seed(3)
        outputs.append(draw_and_run(each, x))
    torch.testing.assert_close(*outputs)
    train(twin.train(), x)
    assert all(p.grad is None for p in bnet.parameters())
    twin.posteriors["conv.weight"].loc.data.zero_()
    assert bool(bnet.posteriors["conv.weight"].loc.any())
    assert twin.net is not net


def test_it_moves_to_double_precision_without_the_net():
    net, bnet, x = images()
    bnet.to(torch.float64).eval()
    assert draw_and_run(bnet, x.double()).dtype == torch.float64
    assert bnet.prior(x.double()).dtype == bnet(x.double()).dtype == torch.float64
    assert all(t.dtype in (torch.float64, torch.int64) for t in bnet.means().values())
    train(bnet.train(), x.double())
    assert all(p.dtype == torch.float32 for p in net.parameters())


class Items(nn.Module):
    """Submodules under names that modules tend to have as methods."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Linear(3, 3)
        self.put = nn.Linear(3, 3)
        self.loc = nn.Linear(3, 3)
        self.kept = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.loc(self.put(self.items(x))) @ self.kept


def test_a_net_may_call_its_layers_what_it_likes():
    bnet = BayesianNet(Items(), {"*.weight": SparseVD(), "kept": SparseVD()})
    train(bnet, torch.randn(4, 3))
    assert without_gradient(bnet) == []
    assert set(bnet.means()) == set(Items().state_dict())


def test_what_is_no_net_or_estimator_is_refused(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(TypeError, match=r"needs an nn\.Module, got dict"):
        BayesianNet({}, {})
    with pytest.raises(ValueError, match=r"estimator is one of .* got 'antithetic'"):
        BayesianNet(nn.Linear(2, 2), {}, estimator="antithetic")


# --- one draw, one weight -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["local", "flipout", "weight"])
def test_in_eval_mode_one_draw_is_one_weight_for_all_rows_and_batches(estimator):
    _, bnet, x = images(estimator=estimator)
    bnet.eval()
    x[1] = x[0]
    output = draw_and_run(bnet, x)
    assert torch.equal(output[0], output[1])
    weights = bnet.draw()
    first, second = bnet.run(weights, x), bnet.run(weights, x.flip(0))
    torch.testing.assert_close(first.flip(0), second)
    assert not torch.equal(bnet.run(bnet.draw(), x), first)
    assert not any(t.requires_grad for t in weights.values())


@pytest.mark.parametrize(("estimator", "alike"), [("local", False), ("flipout", False), ("weight", True)])
def test_in_training_equal_rows_share_their_weight_under_the_weight_estimator_alone(estimator, alike):
    bnet = BayesianNet(nn.Linear(6, 4), {"weight": SparseVD()}, estimator=estimator)
    x = torch.randn(1, 6).expand(2, 6)
    train(bnet, x)
    output = draw_and_run(bnet, x)
    assert bool(torch.isclose(output[0], output[1]).all()) is alike


@pytest.mark.parametrize("training", [True, False])
def test_without_gradients_one_draw_is_one_weight_in_either_mode(training):
    bnet = BayesianNet(nn.Linear(6, 4), {"weight": SparseVD()})
    x = torch.randn(1, 6).expand(2, 6)
    train(bnet, x)
    bnet.train(training)
    with torch.no_grad():
        output = draw_and_run(bnet, x)
    torch.testing.assert_close(output[0], output[1])


def test_a_draw_is_joint_pruned_and_of_the_posteriors_moments():
    torch.manual_seed(0)
    bnet = BayesianNet(nn.Linear(3, 2), {"weight": SparseVD(init_log_scale=-1.0)})
    bnet.posteriors["weight"].prune(torch.tensor([[True, False, True], [True, True, True]]))
    draws = torch.stack([bnet.draw()["weight"] for _ in range(400)])
    mean, var = bnet.moments()["weight"]
    assert bool((draws[:, 0, 1] == 0).all())
    assert float(((draws.mean(0) - mean).abs() / (var / 400).sqrt().clamp_min(1e-9)).max()) < 5
    assert float(((draws.var(0) - var).abs() / (var * (2 / 399) ** 0.5).clamp_min(1e-9)).max()) < 5


# --- pruning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [SparseVD(Block(2, 1)), Gaussian(Channel(0), prior=1.0), SparseVD(exact_kl=True), Gaussian(prior=1.0)]
)
@pytest.mark.parametrize("estimator", ["local", "weight", "flipout"])
@pytest.mark.parametrize("loss", [MeanFieldELBO, TraceMeanField_ELBO, Trace_ELBO])
def test_what_is_pruned_is_zero_feels_no_gradient_and_costs_no_divergence(method, estimator, loss):
    torch.manual_seed(0)
    bnet = BayesianNet(nn.Linear(5, 4), {"weight": method}, estimator=estimator)
    posterior = bnet.posteriors["weight"]
    posterior.prune(torch.rand(posterior.kept.shape) < 0.5)
    gone = ~posterior.entries()
    assert bool(gone.any()) and not bool(gone.all())
    model, x, y = classify(bnet, size=6), torch.randn(6, 5), torch.arange(6) % 4
    for _ in range(3):
        bnet.zero_grad()
        loss().differentiable_loss(model, bnet.guide, x, y).backward()
        for parameter in posterior.parameters():
            assert bool((parameter.grad[gone] == 0).all())
            assert bool((parameter.grad[~gone] != 0).any())
    for name, value in {**bnet.draw(), **bnet.means()}.items():
        assert name == "bias" or bool((value[gone] == 0).all())
    mean, var = bnet.moments()["weight"]
    assert bool((mean[gone] == 0).all()) and bool((var[gone] == 0).all())
    assert bool((bnet.snr()["weight"][~posterior.kept] == 0).all())


@pytest.mark.parametrize("method", [SparseVD(), Gaussian(prior=1.0)])
def test_the_divergence_is_that_of_what_is_kept(method):
    torch.manual_seed(0)
    bnet = BayesianNet(nn.Linear(5, 4), {"weight": method})
    model, x, y = classify(bnet, size=6), torch.randn(6, 5), torch.arange(6) % 4

    def divergence(kept: Tensor) -> float:
        bnet.posteriors["weight"].prune(kept)
        elbo = MeanFieldELBO()
        elbo.differentiable_loss(model, bnet.guide, x, y)
        return float(elbo.kl)

    every = torch.ones(4, 5, dtype=torch.bool)
    kept = torch.rand(4, 5) < 0.5
    assert divergence(~every) == 0.0
    assert divergence(kept) + divergence(~kept) == pytest.approx(divergence(every), rel=1e-5)
    assert divergence(kept) > 0


def test_a_pruned_net_runs_as_the_net_with_zeros_in_it():
    net, bnet, x = images(rules={"conv.weight": CERTAIN, "fc.weight": CERTAIN})
    bnet.eval()
    bnet.posteriors["conv.weight"].prune(torch.rand(4, 1, 3, 3) < 0.5)
    zeroed = copy.deepcopy(net).eval()
    zeroed.conv.weight.data.mul_(bnet.posteriors["conv.weight"].entries())
    torch.testing.assert_close(draw_and_run(bnet, x), zeroed(x))


@pytest.mark.parametrize("mask", [torch.ones(4, 5), torch.ones(5, 4, dtype=torch.bool)])
def test_a_mask_of_the_wrong_kind_is_refused_by_name(mask):
    bnet = BayesianNet(nn.Linear(5, 4), {"weight": SparseVD()})
    with pytest.raises(ValueError, match=r"'weight' needs a bool mask .* \(4, 5\); got"):
        bnet.prune({"weight": mask})


def test_a_net_under_a_plate_is_refused_with_the_way_out():
    bnet = BayesianNet(nn.Linear(5, 4), {"weight": SparseVD()})
    with pytest.raises(ValueError, match=r"'weight' has shape \(3, 4, 5\).*outside any pyro.plate"), pyro.plate("n", 3):
        bnet(torch.zeros(3, 5))


def test_a_state_dict_holds_how_weights_were_used_and_one_without_it_still_loads() -> None:
    def made() -> BayesianNet:
        return BayesianNet(nn.Sequential(nn.Linear(3, 2)), {"0.weight": SparseVD()}).train()

    bnet, other, old = made(), made(), made()
    for _ in range(2):
        poutine.replay(bnet, trace=poutine.trace(bnet.guide).get_trace())(torch.randn(4, 3))
    assert bnet.sampled_locally == ("0.weight",)
    state = bnet.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    other.load_state_dict(state)
    assert other.sampled_locally == ("0.weight",)
    del state["_extra_state"]
    old.load_state_dict(state)
    assert old.sampled_locally == ()
    assert torch.equal(old.means()["0.weight"], bnet.means()["0.weight"])
