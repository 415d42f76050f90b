"""The ELBO loop: scaling, history, warm-up, seeds, loaders, optimisers, Ctrl-C, checkpoints."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.fits import NETS, N, Note, batches, data, fit, linear, same, shuffled, state
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.fitting.elbo import MeanFieldELBO
from bayesprune.pruning import Run

# --- what is maximised ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_the_bound_is_per_data_set_whatever_the_batch(net: str) -> None:
    bnet = NETS[net]()
    model, elbo = bp.classify(bnet, N), MeanFieldELBO()
    means, errors = {}, {}
    for size in (8, 16, 48):
        loader = batches(size)
        with torch.no_grad():  # one value: the bound averaged over a partition of the data
            draws = [[elbo.differentiable_loss(model, bnet.guide, *b).item() for b in loader] for _ in range(15)]
        values = torch.tensor(draws, dtype=torch.float64).mean(1)
        means[size], errors[size] = values.mean().item(), values.std().item() / math.sqrt(len(values))
    for size in (8, 16):
        assert abs(means[size] - means[48]) < 5 * math.hypot(errors[size], errors[48])
        assert 5 * errors[size] < 0.2 * abs(means[48])  # a batch's own scale would be 3 or 6 times too small
    with torch.no_grad():  # and without noise it is the sum over all data plus one KL
        for posterior in bnet.posteriors.values():
            posterior.get_parameter("log_scale").fill_(-9.0)
        nll = nn.functional.cross_entropy(bnet.run(bnet.means(), data()[0]), data()[1], reduction="sum").item()
        loss = sum(elbo.differentiable_loss(model, bnet.guide, *b).item() for b in batches(16)) / 3
    assert loss - elbo.kl.item() == pytest.approx(nll, rel=0.01)


@pytest.mark.parametrize("size", [12, 48])
def test_history_holds_the_nll_per_example_and_the_kl_per_data_set(size: int) -> None:
    """At a learning rate of nothing, both are those of the start."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    x, y = data()
    bnet = bp.BayesianNet(net, {"1.weight": bp.Gaussian(prior=0.5, init_log_scale=-9.0)})
    history = fit(bnet, batches(size), lr=1e-12, epochs=2)
    nll = nn.functional.cross_entropy(net(x), y).item()
    kl = (0.5 * (math.exp(-18.0) + net[1].weight.square()) / 0.25 - 0.5 + 9.0 + math.log(0.5)).sum().item()
    assert history.nll == pytest.approx([nll, nll], rel=1e-2)
    assert history.kl == pytest.approx([kl, kl], rel=1e-5)
    assert history.kept == [1.0, 1.0]
    assert [e.epoch for e in history.epochs] == [1, 2]
    assert history.seconds == sum(e.seconds for e in history.epochs) > 0
    assert history.to_dict() == {"epochs": [e.to_dict() for e in history.epochs], "interrupted": False}


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        (4.0, [0.125, 0.375, 0.625, 0.875, 1.0, 1.0]),
        (0.0, [1.0] * 6),
        (0.5, [1.0] * 6),
        (None, [0.5 / 2.4, 1.5 / 2.4, 1.0, 1.0, 1.0, 1.0]),  # 40 % of the epochs
        (1000.0, [1e-3, 1.5e-3, 2.5e-3, 3.5e-3, 4.5e-3, 5.5e-3]),  # never 0
    ],
)
def test_the_kl_is_warmed_up_linearly(warmup: float | None, expected: list[float]) -> None:
    history = fit(linear(), batches(24), epochs=6, warmup=warmup)
    assert [e.kl_weight for e in history.epochs] == pytest.approx(expected)


def test_warm_up_lets_the_data_speak_first() -> None:
    kls = {warmup: fit(linear(), epochs=4, lr=0.05, warmup=warmup).kl[-1] for warmup in (0.0, 1000.0)}
    assert kls[0.0] < 0.9 * kls[1000.0]


def test_the_loss_falls_and_parameters_move() -> None:
    for make in NETS.values():
        bnet = make()
        before = state(bnet)
        history = fit(bnet, epochs=12, lr=0.06, warmup=1e4)
        assert history.nll[-1] < 0.5 * history.nll[0]
        after = state(bnet)
        assert {n for n in before if torch.equal(before[n], after[n])} == {n for n in before if n.endswith(".kept")}
        assert not history.interrupted


def test_what_the_user_froze_stays() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.Linear(4, 2))
    net[1].bias.requires_grad_(False)
    bnet = bp.BayesianNet(net, {"*.weight": bp.SparseVD()})
    fit(bnet, lr=0.1)
    assert torch.equal(bnet.means()["1.bias"], net[1].bias)
    assert not torch.equal(bnet.means()["2.bias"], net[2].bias)


def test_fit_leaves_no_gradient_behind() -> None:
    """An SVI that goes on from here would add it to its own first step."""
    bnet = linear()
    fit(bnet)
    assert all(p.grad is None or not bool(p.grad.any()) for p in bnet.parameters())


# --- the regression likelihood ----------------------------------------------------------------------------------------


def regression(n: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(n, 4, generator=generator)
    x[:, 1] += 0.7 * x[:, 0]
    w = torch.tensor([[1.5, -0.5, 0.0, 0.8]])
    return x, x @ w.T + noise * torch.randn(n, 1, generator=generator), w


@pytest.mark.parametrize("noise", [0.2, 3.0])
def test_regress_learns_the_noise(noise: float) -> None:
    x, y, w = regression(400, noise)
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(4, 1, bias=False)), {"*": bp.Gaussian(prior=2.0)})
    model = bp.regress(bnet, size=400)
    loader = DataLoader(TensorDataset(x, y), batch_size=200, shuffle=True)
    bp.fit(model, bnet.guide, loader, epochs=100, lr=0.05, seed=0, progress=False)
    learned = model.bnet.observation.noise
    # the residual sd of 400 examples is known to 1 / √800 = 3.5 %
    assert learned == pytest.approx(noise, rel=0.12)
    assert torch.allclose(bnet.means()["0.weight"], w, atol=5 * noise / math.sqrt(400 * 0.6))


def test_regress_with_fixed_noise_finds_the_closed_form_posterior() -> None:
    noise, prior = 0.5, 1.0
    x, y, _ = regression(60, noise)
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(4, 1, bias=False)), {"*": bp.Gaussian(prior=prior)})
    model = bp.regress(bnet, size=60, noise=noise)

    def one_rate(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam([{**group, "lr": 0.03} for group in groups])

    bp.fit(model, bnet.guide, [(x, y)], epochs=300, optimizer=one_rate, warmup=0.0, seed=0, progress=False)
    precision = (x.T @ x / noise**2 + torch.eye(4) / prior**2).double()
    mean = torch.linalg.solve(precision, (x.T @ y / noise**2).double()).T
    found_mean, found_var = bnet.moments()["0.weight"]
    sd = precision.diagonal().rsqrt()  # mean-field: the conditional's, narrower than the marginal
    assert bool(((found_mean - mean).abs() < 0.25 * sd).all())
    assert torch.allclose(found_var.sqrt().double(), sd.expand_as(found_var), rtol=0.15)
    assert bnet.observation.noise == pytest.approx(noise)


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "estimator"), [("linear", "local"), ("linear", "weight"), ("linear", "flipout"), ("convolution", "local")]
)
def test_the_seed_fixes_the_fit_bit_by_bit(net: str, estimator: str) -> None:
    outcomes = []
    for seed in (1, 1, 2):
        bnet = NETS[net](estimator=estimator)
        torch.manual_seed(100 + len(outcomes))  # whatever the global generator holds
        history = fit(bnet, shuffled(), seed=seed, prune=bp.Cubic(keep=0.5, every=2))
        outcomes.append((state(bnet), history.nll, history.kl))
    first, again, other = outcomes
    assert same(first[0], again[0])
    assert first[1:] == again[1:]
    assert not same(first[0], other[0])


def test_without_a_seed_the_global_generator_decides() -> None:
    outcomes = []
    for seed in (4, 4, 5):
        bnet = linear()
        torch.manual_seed(seed)
        fit(bnet, shuffled(), seed=None)
        outcomes.append(state(bnet))
    assert same(outcomes[0], outcomes[1])
    assert not same(outcomes[0], outcomes[2])


# --- loaders ----------------------------------------------------------------------------------------------------------


class Lengthless:
    """An iterable that can be read again and does not know its length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from batches(16)


LOADERS: dict[str, Callable[[], Any]] = {
    "list": lambda: batches(16),
    "tuple": lambda: tuple(batches(16)),
    "lists as batches": lambda: [list(batch) for batch in batches(16)],
    "DataLoader": lambda: DataLoader(TensorDataset(*data()), batch_size=16),
    "without a length": Lengthless,
}


@pytest.mark.parametrize("kind", LOADERS)
def test_any_loader_gives_the_same_fit(kind: str) -> None:
    bnet, reference = linear(), linear()
    note = Note()
    history = fit(bnet, LOADERS[kind](), callbacks=[note])
    assert note.run is not None
    assert note.run.steps == 9 == len(note.steps)
    if kind == "DataLoader":  # it draws a seed for its workers each epoch, so its draws differ
        assert history.nll == pytest.approx(fit(reference).nll, rel=0.2)
    else:
        assert history.nll == fit(reference).nll
        assert same(state(bnet), state(reference))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.left(a) + self.right(b)


def two_inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(N, 3, generator=generator), torch.randn(N, 4, generator=generator)
    return a, b, (a.sum(1) + b.sum(1) > 0).long()


SHAPES: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "(a, b, y)": lambda a, b, y: (a, b, y),
    "((a, b), y)": lambda a, b, y: ((a, b), y),
    "([a, b], y)": lambda a, b, y: ([a, b], y),
    "({'a': a, 'b': b}, y)": lambda a, b, y: ({"b": b, "a": a}, y),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_several_inputs_by_place_or_by_name(shape: str) -> None:
    torch.manual_seed(0)
    bnet = bp.BayesianNet(TwoInputs(), {"*.weight": bp.SparseVD()})
    parts = [t.split(16) for t in two_inputs()]
    loader = [SHAPES[shape](*batch) for batch in zip(*parts, strict=True)]
    history = fit(bnet, loader, epochs=10, lr=0.1, warmup=20.0)
    assert history.nll[-1] < 0.6 * history.nll[0]
    prediction = bp.predict(bnet, loader, draws=5, seed=0)
    assert (prediction.mean.argmax(-1) == two_inputs()[2]).double().mean().item() > 0.9


def test_several_inputs_come_from_a_data_loader_too() -> None:
    bnet = bp.BayesianNet(TwoInputs(), {"*.weight": bp.SparseVD()})
    history = fit(bnet, DataLoader(TensorDataset(*two_inputs()), batch_size=16), epochs=2)
    assert len(history.epochs) == 2


def test_a_plain_function_can_be_the_model() -> None:
    bnet, other = linear(), linear()

    def model(x: Tensor, y: Tensor | None = None) -> None:
        logits = bnet(x)
        with pyro.plate("data", N, subsample=torch.arange(len(x))):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    history = bp.fit(model, bnet.guide, batches(16), epochs=3, lr=0.01, seed=1, progress=False)
    reference = fit(other)
    assert same(state(bnet), {name: value for name, value in state(other).items() if "observation" not in name})
    assert history.kl == reference.kl
    assert history.nll == pytest.approx(reference.nll, rel=1e-5)  # without a size, N is counted from the batches


# --- optimisers and callbacks -----------------------------------------------------------------------------------------


def test_the_optimizer_factory_gets_every_parameter_once_with_its_rate() -> None:
    seen: list[list[dict[str, Any]]] = []

    def factory(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        seen.append(groups)
        return torch.optim.SGD(groups, lr=123.0, momentum=0.9)

    bnet, note = linear(), Note()
    before = state(bnet)
    fit(bnet, optimizer=factory, callbacks=[note], lr=1e-3)
    (groups,) = seen
    names = {id(p): name for name, p in bnet.named_parameters()}
    found = [names[id(p)] for group in groups for p in group["params"]]
    assert sorted(found) == sorted(names.values())
    rates = {names[id(p)]: group["initial_lr"] for group in groups for p in group["params"]}
    assert all(rate == pytest.approx(1e-2 if "log_scale" in name else 1e-3) for name, rate in rates.items())
    assert note.run is not None
    assert type(note.run.optimizer) is torch.optim.SGD
    assert not same(before, state(bnet))


def test_the_learning_rate_decays_as_asked() -> None:
    note, halves = Note(), Note()
    fit(linear(), callbacks=[note], epochs=4, lr=0.01)  # 12 steps: half at 1, then linear to 0
    weights = [min(rates) for rates in note.rates]
    assert weights == pytest.approx([0.01 * min(1.0, 2 * (1 - step / 12)) for step in range(1, 13)])
    fit(linear(), callbacks=[halves], epochs=1, lr=0.01, decay=lambda progress: 0.5**progress)
    assert [min(rates) for rates in halves.rates] == pytest.approx([0.01 * 0.5 ** (step / 3) for step in (1, 2, 3)])


def test_callbacks_are_called_after_each_step_and_epoch_the_schedule_first() -> None:
    order: list[str] = []

    class Says(bp.Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_step(self, run: Run) -> None:
            order.append(f"{self.name}{run.step}")

        def on_epoch(self, run: Run) -> None:
            order.append(f"{self.name} epoch")

    note = Note()
    bnet = linear()
    fit(bnet, batches(24), epochs=2, prune=Says("p"), callbacks=[Says("a"), note])
    first = ["p1", "a1", "p2", "a2", "p epoch", "a epoch"]
    assert order == [*first, "p3", "a3", "p4", "a4", "p epoch", "a epoch"]
    assert note.steps == [1, 2, 3, 4]
    assert note.epochs == [0.5, 1.0]
    assert note.run is not None
    assert note.run.bnet is bnet
    assert (note.run.steps, note.run.step, note.run.progress) == (4, 4, 1.0)


def test_fits_with_different_devices_follow_one_another() -> None:
    outcomes = []
    for device in ("cpu", None, torch.device("cpu")):
        bnet = linear()
        fit(bnet, device=device)
        outcomes.append(state(bnet))
    assert same(outcomes[0], outcomes[1])
    assert same(outcomes[0], outcomes[2])


# --- when it goes wrong -----------------------------------------------------------------------------------------------


def test_ctrl_c_ends_cleanly_keeps_what_was_fitted_and_lets_one_go_on() -> None:
    bnet, uninterrupted = linear(), linear()
    before = state(bnet)
    history = fit(bnet, epochs=5, callbacks=[Note(at=4, error=KeyboardInterrupt())])  # in the second of three batches
    assert history.interrupted
    assert len(history.epochs) == 1
    fit(uninterrupted, epochs=5, callbacks=[Note(at=3, error=KeyboardInterrupt())])
    kept = state(bnet)
    assert not same(kept, before)
    assert not same(kept, state(uninterrupted))  # the fourth step counts, too
    history = fit(bnet, epochs=10)
    assert not history.interrupted
    assert len(history.epochs) == 10
    assert not same(kept, state(bnet))
    assert math.isfinite(bp.predict(bnet, [data()[0]], draws=2, seed=0).mean.sum().item())


def test_a_callbacks_own_error_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(linear(), callbacks=[Note(at=2, error=ZeroDivisionError("mine"))])


def test_a_loss_that_is_not_finite_is_an_error_that_spares_the_parameters() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    bnet = bp.BayesianNet(net, {"*.weight": bp.Gaussian()})

    class Overflow(bp.Callback):
        def on_step(self, run: Run) -> None:
            if run.step == 4:
                run.bnet.get_parameter("_posteriors.1.weight.loc").data.fill_(3e38)

    with pytest.raises(FloatingPointError, match=r"epoch 2, batch 1.*lr=0\.01"):
        fit(bnet, callbacks=[Overflow()])
    assert all(bool(torch.isfinite(p).all()) for p in bnet.parameters())
