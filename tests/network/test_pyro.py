"""A Pyro citizen: stock SVI, ELBOs, Predictive and poutines, in both parameter modes, and never the global store."""

import copy
import io
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from support.methods import GroupScale
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.draws.gaussian import plain
from bayesprune.fitting.elbo import MeanFieldELBO

N, INPUTS, CLASSES = 60, 6, 3


@pytest.fixture(autouse=True, params=[False, True], ids=["default", "module_local_params"])
def pyro_mode(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test runs under Pyro's default settings and with module-local parameters; the store stays empty."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    with pyro.settings.context(module_local_params=request.param):
        yield
    assert len(pyro.get_param_store()) == 0


one_mode = pytest.mark.parametrize("pyro_mode", [False], indirect=True)  # where parameters play no part


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(N, INPUTS, generator=generator)
    return x, x[:, :CLASSES].argmax(-1)


def new_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(INPUTS, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, CLASSES))


RULES = {"0.weight": bp.SparseVD(bp.Block(2, 1)), "3.*": bp.Gaussian()}


def new_bnet(seed: int = 0, **kwargs: Any) -> bp.BayesianNet:
    return bp.BayesianNet(new_net(seed), RULES, **kwargs)


def own_model(bnet: bp.BayesianNet) -> Callable[..., None]:
    """A user's own model, as README writes it."""

    def model(x: Tensor, y: Tensor | None = None) -> None:
        logits = bnet(x)
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    return model


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, Tensor], module: nn.Module) -> list[str]:
    return [name for name, value in module.state_dict().items() if not torch.equal(before[name], value)]


def sites(trace: Any, kind: str = "sample") -> list[str]:
    return [name for name, site in trace.nodes.items() if site["type"] == kind]


ELBOS = {"Trace_ELBO": Trace_ELBO, "TraceMeanField_ELBO": TraceMeanField_ELBO, "MeanFieldELBO": MeanFieldELBO}
MODELS: dict[str, Callable[[bp.BayesianNet], Callable[..., Any]]] = {
    "own": own_model,
    "classify": lambda bnet: bp.classify(bnet, N),
}


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("elbo", ELBOS)
def test_svi_with_pyros_adam_trains(elbo: str, make: str) -> None:
    x, y = data()
    bnet = new_bnet()
    before = snapshot(bnet)
    svi = SVI(MODELS[make](bnet), bnet.guide, pyro.optim.Adam({"lr": 0.05}), ELBOS[elbo]())
    losses = [svi.step(x, y) for _ in range(20)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert all(math.isfinite(loss) for loss in losses)
    still = set(before) - set(moved(before, bnet))
    assert still == {name for name in before if name.endswith(".kept")}
    assert math.isfinite(svi.evaluate_loss(x, y))


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("elbo", ELBOS)
def test_elbo_module_with_torch_optim_trains(elbo: str, make: str) -> None:
    x, y = data()
    bnet = new_bnet()
    bound = ELBOS[elbo]()(MODELS[make](bnet), bnet.guide)
    before = snapshot(bnet)
    optimizer = torch.optim.Adam(bnet.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = bound(x, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert set(before) - set(moved(before, bnet)) == {name for name in before if name.endswith(".kept")}
    if make == "classify":  # a module: the bound owns its parameters
        assert {id(p) for p in bound.parameters()} == {id(p) for p in bnet.parameters()}


def test_param_sites_are_the_nets_own_parameters() -> None:
    bnet = new_bnet()
    with poutine.trace() as trace:
        bnet.guide()
        poutine.block(bnet)(data()[0])
    guide_sites = set(sites(trace.trace, "param"))
    with poutine.trace(param_only=True) as trace:
        bnet.guide()
        bnet(data()[0])
    found = {id(site["value"].unconstrained()) for site in trace.trace.nodes.values() if site["type"] == "param"}
    assert found == {id(p) for p in bnet.parameters()}
    assert guide_sites == {f"{n}.{leaf}" for n in ("0.weight", "3.weight", "3.bias") for leaf in ("loc", "log_scale")}


def test_two_nets_in_one_process_are_independent() -> None:
    x, y = data()
    one, two, alone = new_bnet(1), new_bnet(2), new_bnet(1)

    def fitter(bnet: bp.BayesianNet) -> SVI:
        return SVI(own_model(bnet), bnet.guide, pyro.optim.Adam({"lr": 0.02}), TraceMeanField_ELBO())

    def steps(svi: SVI, n: int) -> None:
        torch.manual_seed(9)
        for _ in range(n):
            svi.step(x, y)

    untouched = snapshot(two)
    steps(fitter(one), 5)
    assert moved(untouched, two) == []
    here = snapshot(one)
    steps(fitter(two), 5)
    assert moved(here, one) == []
    assert moved(untouched, two) != []
    steps(fitter(alone), 5)  # the third net of the process fits as the first did
    assert moved(here, alone) == []


def test_two_fits_one_after_the_other_in_a_thread() -> None:
    x, y = data()
    results: list[dict[str, Tensor]] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(2):
                bnet = new_bnet()
                bp.fit(bp.classify(bnet, N), bnet.guide, [(x, y)], epochs=3, lr=0.02, seed=1, progress=False)
                svi = SVI(own_model(bnet), bnet.guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
                torch.manual_seed(2)
                svi.step(x, y)
                results.append(snapshot(bnet))
        except BaseException as error:  # a thread's error would pass unseen
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert len(results) == 2
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert any(not torch.equal(value, results[0][name]) for name, value in new_bnet().state_dict().items())


# --- the two bounds agree ---------------------------------------------------------------------------------------------


def halves(elbo: MeanFieldELBO) -> tuple[float, float]:
    return elbo.nll.item(), elbo.kl.item()


@pytest.mark.parametrize("pruned", [False, True], ids=["whole", "pruned"])
def test_mean_field_elbo_is_pyros_at_the_same_seed(pruned: bool) -> None:
    x, y = data()
    bnet = new_bnet(estimator="weight")
    if pruned:
        bnet.prune({n: torch.arange(p.kept.numel()).reshape(p.kept.shape) % 3 > 0 for n, p in bnet.posteriors.items()})
    bnet.eval()  # BatchNorm's running sums would differ between the two passes
    model, ours = own_model(bnet), MeanFieldELBO()
    torch.manual_seed(3)
    mine = ours.differentiable_loss(model, bnet.guide, x[:20], y[:20])
    mine.backward()
    grads = {name: p.grad.clone() for name, p in bnet.named_parameters() if p.grad is not None}
    bnet.zero_grad()
    torch.manual_seed(3)
    theirs = TraceMeanField_ELBO().differentiable_loss(model, bnet.guide, x[:20], y[:20])
    theirs.backward()
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert sum(halves(ours)) == pytest.approx(theirs.item(), rel=1e-5)
    assert set(grads) == {name for name, p in bnet.named_parameters() if p.grad is not None} != set()
    for name, p in bnet.named_parameters():
        if name in grads:
            assert torch.allclose(grads[name], p.grad, rtol=1e-4, atol=1e-4), name


def test_mean_field_elbos_halves_are_pyros_log_likelihood_and_kl() -> None:
    x, y = data()
    bnet = new_bnet(estimator="weight").eval()
    ours = MeanFieldELBO()
    torch.manual_seed(3)
    ours.differentiable_loss(own_model(bnet), bnet.guide, x[:20], y[:20])
    nll, kl = halves(ours)
    torch.manual_seed(3)
    guide = poutine.trace(bnet.guide).get_trace(x)
    logits = poutine.replay(bnet, trace=guide)(x[:20])
    assert nll == pytest.approx(nn.functional.cross_entropy(logits, y[:20], reduction="sum").item() * N / 20, rel=1e-5)
    prior = poutine.trace(poutine.replay(bnet, trace=guide)).get_trace(x)
    closed = [torch.distributions.kl_divergence(guide.nodes[n]["fn"], prior.nodes[n]["fn"]) for n in sites(guide)]
    assert kl == pytest.approx(sum(float(k.detach()) for k in closed), rel=1e-5)


def test_the_kl_weight_scales_the_kl_alone() -> None:
    x, y = data()
    bnet = new_bnet().eval()
    elbo = MeanFieldELBO()
    losses = {}
    for elbo.kl_weight in (0.25, 1.0):
        torch.manual_seed(3)
        losses[elbo.kl_weight] = elbo.differentiable_loss(own_model(bnet), bnet.guide, x, y).item()
        nll, kl = halves(elbo)
        assert losses[elbo.kl_weight] == pytest.approx(nll + elbo.kl_weight * kl, rel=1e-5)
    assert losses[1.0] - losses[0.25] == pytest.approx(0.75 * kl, rel=1e-4)


@one_mode
@pytest.mark.parametrize("estimator", ["local", "weight", "flipout"])
def test_mean_field_elbo_is_trace_elbo_in_expectation(estimator: str) -> None:
    """Both are unbiased for one bound, whatever the estimator, up to the prior's declared offset (exact KLs)."""
    x, y = data()
    net = nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    rules = {"0.*": bp.Gaussian(prior=0.5, init_log_scale=-2.5), "2.*": bp.SparseVD(exact_kl=True, init_log_scale=-2.0)}
    bnet = bp.BayesianNet(net, rules, estimator=estimator)
    model = own_model(bnet)
    model(x)
    bnet(x)  # the first pass in training counts uses

    def values(elbo: Any, n: int) -> Tensor:
        return torch.tensor([elbo.differentiable_loss(model, bnet.guide, x, y).item() for _ in range(n)]).double()

    ours, pyros = values(MeanFieldELBO(), 30), values(Trace_ELBO(), 60)
    entries = sum(math.prod(p.layout.shape) for n, p in bnet.posteriors.items() if n.startswith("2."))
    prior = poutine.trace(bnet).get_trace(x).nodes["2.weight"]["fn"].base_dist
    gap = ours.mean() + entries * prior.kl_offset - pyros.mean()
    error = math.sqrt(ours.var() / len(ours) + pyros.var() / len(pyros))
    assert abs(gap.item()) < 5 * error
    assert 5 * error < 0.1 * MeanFieldELBO().loss(model, bnet.guide, x, y)  # the band sees a missing ½


def test_a_site_that_the_guide_lacks_is_an_error() -> None:
    bnet = new_bnet()

    def model(x: Tensor) -> None:
        pyro.sample("extra", dist.Normal(0.0, 1.0))
        bnet(x)

    with pytest.raises(ValueError, match=r"'extra'.*guide"):
        MeanFieldELBO().differentiable_loss(model, bnet.guide, data()[0])


# --- Predictive -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("guided", [True, False], ids=["posterior", "prior"])
@pytest.mark.parametrize("make", MODELS)
def test_predictive_gives_one_weight_a_draw(make: str, guided: bool, training: bool) -> None:
    x = data()[0][:1].expand(7, -1)  # one example, seven times: one weight means one output
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(INPUTS, 8), nn.ReLU(), nn.Linear(8, CLASSES)), {"*.weight": wide()})
    model = bp.classify(bnet, N) if make == "classify" else None
    bnet.train(training)

    def own(x: Tensor) -> Tensor:
        logits = bnet(x)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=logits))
        return logits

    call = model or own
    wanted = ("_RETURN", "y", "0.weight", "2.weight")
    found = Predictive(call, guide=bnet.guide if guided else None, num_samples=5, return_sites=wanted)(x)
    outputs = found["_RETURN"]
    assert outputs.shape == (5, 7, CLASSES)
    assert torch.allclose(outputs, outputs[:, :1].expand_as(outputs), rtol=1e-4, atol=1e-5)
    assert len({tuple(o) for o in outputs[:, 0].tolist()}) == 5  # draws differ
    assert found["y"].shape[:2] == (5, 7) or found["y"].shape == (5, 7)
    for output, first, second in zip(outputs, found["0.weight"], found["2.weight"], strict=True):
        hidden = (x @ first.reshape(8, INPUTS).T + bnet.means()["0.bias"]).relu()
        assert torch.allclose(
            output, hidden @ second.reshape(CLASSES, 8).T + bnet.means()["2.bias"], rtol=1e-4, atol=1e-4
        )
    assert bnet.training is training


def wide() -> bp.Gaussian:
    return bp.Gaussian(init_log_scale=-1.0)


def test_predictive_without_guide_draws_from_the_prior() -> None:
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(INPUTS, 50)), {"*.weight": bp.Gaussian(prior=2.0)})
    draws = Predictive(bnet, num_samples=30)(data()[0])["0.weight"]
    assert float(draws.std()) == pytest.approx(2.0, rel=0.05)
    draws = Predictive(bnet, guide=bnet.guide, num_samples=30)(data()[0])["0.weight"]
    assert float((draws - bnet.means()["0.weight"]).std()) == pytest.approx(math.exp(-4), rel=0.05)


def test_predictive_sees_what_is_pruned() -> None:
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(INPUTS, CLASSES)), {"*.weight": wide()})
    bnet.prune({"0.weight": torch.zeros(CLASSES, INPUTS, dtype=torch.bool)})
    outputs = Predictive(bnet, guide=bnet.guide, num_samples=3, return_sites=("_RETURN",))(data()[0])["_RETURN"]
    assert torch.equal(outputs, bnet.means()["0.bias"].expand_as(outputs))


def test_vectorised_draws_are_refused_by_name() -> None:
    bnet = new_bnet()
    with pytest.raises(ValueError, match=r"0\.weight.*plate"):
        Predictive(bnet, guide=bnet.guide, num_samples=3, parallel=True)(data()[0])


# --- poutines ---------------------------------------------------------------------------------------------------------


def test_trace_shows_the_same_sites_in_model_and_guide() -> None:
    x, y = data()
    bnet = new_bnet()
    guide = poutine.trace(bnet.guide).get_trace(x, y)
    model = poutine.trace(own_model(bnet)).get_trace(x, y)
    assert sites(guide) == ["0.weight", "3.weight", "3.bias"]
    assert [s for s in sites(model) if s not in ("data", "y")] == sites(guide)
    assert math.isfinite(model.log_prob_sum().item())
    assert math.isfinite(guide.log_prob_sum().item())


def test_replay_runs_the_net_on_the_guides_draw() -> None:
    x, _ = data()
    bnet = new_bnet().eval()
    guide = poutine.trace(bnet.guide).get_trace(x)
    outputs = [poutine.replay(bnet, trace=guide)(x) for _ in range(2)]
    assert torch.equal(outputs[0], outputs[1])
    weights = {n: plain(guide.nodes[n]["value"]) for n in sites(guide)}
    assert torch.allclose(outputs[0], bnet.run({**bnet.means(), **weights}, x), atol=1e-6)
    other = poutine.replay(bnet, trace=poutine.trace(bnet.guide).get_trace(x))(x)
    assert not torch.equal(outputs[0], other)


def test_condition_fixes_a_weight() -> None:
    x, _ = data()
    bnet = new_bnet().eval()
    fixed = {n: torch.randn(p.layout.shape) for n, p in bnet.posteriors.items()}
    output = poutine.condition(bnet, data=fixed)(x)
    assert torch.allclose(output, bnet.run({**bnet.means(), **fixed}, x), atol=1e-6)
    trace = poutine.trace(poutine.condition(bnet, data={"3.bias": fixed["3.bias"]})).get_trace(x)
    assert [n for n in sites(trace) if trace.nodes[n]["is_observed"]] == ["3.bias"]


def test_block_hides_sites() -> None:
    x, _ = data()
    bnet = new_bnet()
    shown = poutine.trace(poutine.block(bnet, hide=["3.bias"])).get_trace(x)
    assert sites(shown) == ["0.weight", "3.weight"]
    assert sites(poutine.trace(poutine.block(bnet)).get_trace(x)) == []


def test_scale_and_mask_reach_the_sites() -> None:
    x, _ = data()
    bnet = new_bnet()
    torch.manual_seed(3)
    whole = poutine.trace(bnet.guide).get_trace(x).log_prob_sum()
    torch.manual_seed(3)
    scaled = poutine.trace(poutine.scale(bnet.guide, scale=0.5)).get_trace(x).log_prob_sum()
    assert scaled.item() == pytest.approx(0.5 * whole.item(), rel=1e-5)
    assert poutine.trace(poutine.mask(bnet.guide, mask=False)).get_trace(x).log_prob_sum() == 0


# --- copies -----------------------------------------------------------------------------------------------------------


def trained() -> tuple[bp.BayesianNet, Any]:
    """A net and its model that have been trained, pruned and replayed: everything that could stick to a copy."""
    x, y = data()
    bnet = new_bnet()
    model = bp.classify(bnet, N)
    bp.fit(model, bnet.guide, [(x, y)], epochs=4, lr=0.02, seed=0, progress=False, prune=bp.Cubic(keep=0.5))
    return bnet, model


def saved(thing: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("way", [copy.deepcopy, saved], ids=["deepcopy", "torch.save"])
@pytest.mark.parametrize("what", ["bnet", "model"])
def test_copies_are_equal_and_train_apart(what: str, way: Callable[[Any], Any]) -> None:
    x, y = data()
    bnet, model = trained()
    if what == "bnet":
        twin = way(bnet)
        twin_model = bp.classify(twin, N)
    else:
        twin_model = way(model)
        twin = twin_model.bnet
    assert moved(snapshot(bnet), twin) == []
    assert all(torch.equal(a, b) for a, b in zip(bnet.net.parameters(), twin.net.parameters(), strict=True))
    assert twin.methods == bnet.methods
    before = snapshot(bnet)
    svi = SVI(twin_model, twin.guide, pyro.optim.Adam({"lr": 0.02}), TraceMeanField_ELBO())
    svi.step(x, y)
    assert moved(before, bnet) == []
    assert moved(before, twin) != []
    outcomes = []
    for one, its_model in ((bnet, model), (twin, twin_model)):
        one.load_state_dict(before)
        torch.manual_seed(4)
        svi = SVI(its_model, one.guide, pyro.optim.Adam({"lr": 0.02}), TraceMeanField_ELBO())
        outcomes.append([svi.step(x, y) for _ in range(3)])
    assert outcomes[0] == outcomes[1]


def test_state_dict_round_trip_in_memory_and_on_disk() -> None:
    x, _ = data()
    bnet, model = trained()
    assert any("kept" in name and not bool(value.all()) for name, value in bnet.state_dict().items())
    for state in (bnet.state_dict(), saved(bnet.state_dict())):
        fresh = new_bnet(seed=7)
        bp.classify(fresh, N)
        fresh.load_state_dict(state)
        assert moved(snapshot(bnet), fresh) == []
        assert all(torch.equal(bnet.means()[name], fresh.means()[name]) for name in bnet.means())
        assert all(torch.equal(bnet.snr()[name], fresh.snr()[name]) for name in bnet.snr())
        predictions = [bp.predict(one, [x], draws=3, seed=1).mean for one in (bnet, fresh)]
        assert torch.equal(*predictions)
    fresh_model = bp.classify(new_bnet(seed=7), N)
    fresh_model.load_state_dict(model.state_dict())
    assert moved(snapshot(model), fresh_model) == []


def test_state_dict_names_read_like_the_nets() -> None:
    names = set(new_bnet().state_dict())
    assert {"_posteriors.0.weight.loc", "_posteriors.0.weight.log_scale", "_posteriors.0.weight.kept"} <= names
    assert {"_rest.1.weight", "_rest.1.running_mean", "_rest.0.bias"} <= names


# --- the user's net ---------------------------------------------------------------------------------------------------


def test_the_users_net_is_untouched() -> None:
    x, y = data()
    net = new_net()
    net[1].eval()  # frozen on purpose inside a training net
    net[3].bias.requires_grad_(False)
    seen: list[int] = []
    net[0].register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    classes = [type(m) for m in net.modules()]
    keys, before = list(net.state_dict()), snapshot(net)
    modes = [m.training for m in net.modules()]
    hooks = [len(m._forward_hooks) for m in net.modules()]
    attributes = [set(vars(m)) for m in net.modules()]
    wants = [p.requires_grad for p in net.parameters()]
    identities = [id(p) for p in net.parameters()]

    bnet = bp.BayesianNet(net, RULES)
    model = bp.classify(bnet, N)
    svi = SVI(model, bnet.guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    for _ in range(3):
        svi.step(x, y)
    bp.fit(model, bnet.guide, [(x, y)], epochs=2, progress=False, prune=bp.Cubic(keep=0.5))
    bp.predict(bnet, [x], draws=2)
    with pytest.raises(RuntimeError):
        bnet(x[:, :2])  # an error inside the net must not leave it in another mode either

    assert [type(m) for m in net.modules()] == classes
    assert list(net.state_dict()) == keys
    assert moved(before, net) == []
    assert [m.training for m in net.modules()] == modes
    assert [len(m._forward_hooks) for m in net.modules()] == hooks
    assert [set(vars(m)) for m in net.modules()] == attributes
    assert [p.requires_grad for p in net.parameters()] == wants
    assert [id(p) for p in net.parameters()] == identities
    assert all(p.grad is None for p in net.parameters())
    assert N in seen  # its hooks run inside the Bayesian net
    assert torch.equal(bnet.means()["1.running_mean"], before["1.running_mean"])  # frozen there, frozen here


# --- the three verbs, by a user ---------------------------------------------------------------------------------------


def test_a_users_own_method_fits_prunes_and_predicts() -> None:
    x, y = data()
    bnet = bp.BayesianNet(new_net(), {"0.weight": GroupScale(bp.Channel(1)), "3.weight": bp.SparseVD()})
    model = bp.classify(bnet, N)
    before = snapshot(bnet)
    prune = bp.Cubic(keep=0.5, every=5, scope="layer")
    history = bp.fit(model, bnet.guide, [(x, y)], epochs=60, lr=0.02, prune=prune, seed=0, progress=False)
    assert history.nll[-1] < 0.6 * history.nll[0]
    assert history.kept[-1] == pytest.approx(0.5, abs=0.1)
    leaves = ("loc", "log_scale", "z_loc", "z_log_scale", "kept")
    assert {f"_posteriors.0.weight.{leaf}" for leaf in leaves} <= set(moved(before, bnet))
    assert sites(poutine.trace(bnet.guide).get_trace()) == ["0.weight.z", "0.weight", "3.weight"]
    prediction = bp.predict(bnet, [(x, y)], draws=10, seed=0)
    assert float((prediction.mean.argmax(-1) == y).double().mean()) > 0.8
    svi = SVI(model, bnet.guide, pyro.optim.Adam({"lr": 0.02}), TraceMeanField_ELBO())
    assert math.isfinite(svi.step(x, y))
