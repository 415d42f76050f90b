"""Pruning while fitting: the cubic, the kept fraction, the optimiser's memory, and that nothing grows back."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.methods.weight import Weight
from bayesprune.pruning import Run
from bayesprune.pruning.saliency import magnitude

N = 32


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(N, 12, generator=generator)
    return x, (x[:, 0] + x[:, 1] > 0).long()


def new(method: bp.Method | None = None, seed: int = 0) -> bp.BayesianNet:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    return bp.BayesianNet(net, {"0.weight": method or bp.SparseVD(), "2.weight": method or bp.SparseVD()})


class Watch(bp.Callback):
    """What is kept after every step, and each parameter's value, gradient and optimiser state."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []
        self.run: Run | None = None

    def on_step(self, run: Run) -> None:
        self.run = run
        self.kept.append({name: p.kept.clone() for name, p in run.bnet.posteriors.items()})


def fit(
    bnet: bp.BayesianNet, prune: bp.Callback | None, epochs: int = 20, *more: bp.Callback, batch: int = 16
) -> Watch:
    watch = Watch()
    loader = list(zip(*(t.split(batch) for t in data()), strict=True))
    model = bp.classify(bnet, N)
    bp.fit(
        model, bnet.guide, loader, epochs=epochs, lr=0.02, prune=prune, callbacks=[watch, *more], seed=0, progress=False
    )
    return watch


def kept_fraction(bnet: bp.BayesianNet) -> float:
    masks = [p.entries() for p in bnet.posteriors.values()]
    return sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)


def largest_group(bnet: bp.BayesianNet) -> float:
    sizes = [p.pattern.sizes(p.layout) for p in bnet.posteriors.values()]
    return max(int(s.max()) for s in sizes) / sum(int(s.sum()) for s in sizes)


# --- the cubic itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.02, 0.5, 1.0])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.75), (0.2, 0.6), (0.0, 1.0)])
def test_the_fraction_falls_from_one_to_keep_between_start_and_end(start: float, end: float, keep: float) -> None:
    cubic = bp.Cubic(keep=keep, start=start, end=end)
    assert cubic.fraction(0.0) == cubic.fraction(start) == pytest.approx(1.0)
    assert cubic.fraction(end) == cubic.fraction(1.0) == pytest.approx(keep)
    fractions = [cubic.fraction(i / 100) for i in range(101)]
    assert all(a >= b for a, b in pairwise(fractions))
    middle = (start + end) / 2  # Zhu & Gupta 2017, eq. 1, at half time
    assert cubic.fraction(middle) == pytest.approx(keep + (1 - keep) / 8)


def test_the_fraction_falls_fastest_first() -> None:
    cubic = bp.Cubic(keep=0.1, start=0.0, end=1.0)
    drops = [cubic.fraction(i / 10) - cubic.fraction((i + 1) / 10) for i in range(10)]
    assert drops == sorted(drops, reverse=True)


def test_the_kept_fraction_follows_the_cubic() -> None:
    bnet, cubic = new(), bp.Cubic(keep=0.2, every=5, end=0.75)
    watch = fit(bnet, cubic)  # 40 steps
    sizes = {name: p.kept.numel() for name, p in bnet.posteriors.items()}
    fractions = [sum(int(k[n].sum()) for n in sizes) / sum(sizes.values()) for k in watch.kept]
    assert len(fractions) == 40
    for step, fraction in enumerate(fractions, start=1):
        due = step // 5 * 5  # pruned at every fifth step, unchanged between
        assert fraction == pytest.approx(cubic.fraction(due / 40), abs=1 / sum(sizes.values()))


def test_nothing_is_pruned_before_start() -> None:
    bnet = new()
    watch = fit(bnet, bp.Cubic(keep=0.2, every=2, start=0.5, end=0.9))
    whole = [all(bool(k.all()) for k in kept.values()) for kept in watch.kept]
    assert whole[:20] == [True] * 20
    assert not whole[22]
    assert kept_fraction(bnet) == pytest.approx(0.2, abs=largest_group(bnet))


# --- where it ends ----------------------------------------------------------------------------------------------------

PATTERNS: dict[str, bp.Pattern] = {
    "unstructured": bp.Unstructured(),
    "block": bp.Block(2, 2),
    "ragged block": bp.Block(3, 3),
    "channel": bp.Channel(0),
    "inputs": bp.Channel(1),
    "heads": bp.Heads(2),
    "1:2": bp.NM(1, 2),
}


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("keep", [0.07, 0.4])
@pytest.mark.filterwarnings("ignore:nothing of")
def test_the_run_ends_at_keep_to_within_one_group(keep: float, pattern: str, scope: str) -> None:
    bnet = new(bp.SparseVD(PATTERNS[pattern]))
    fit(bnet, bp.Cubic(keep=keep, every=3, scope=scope), epochs=4)  # type: ignore[arg-type]
    if scope == "global":
        assert abs(kept_fraction(bnet) - keep) <= largest_group(bnet)
    else:
        for posterior in bnet.posteriors.values():
            mask, largest = posterior.entries(), int(posterior.pattern.sizes(posterior.layout).max())
            assert abs(int(mask.sum()) - keep * mask.numel()) <= largest


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_run_shorter_than_every_still_ends_at_keep(epochs: int) -> None:
    bnet = new()
    watch = fit(bnet, bp.Cubic(keep=0.25, every=1000), epochs=epochs)
    assert kept_fraction(bnet) == pytest.approx(0.25, abs=largest_group(bnet))
    assert all(bool(k.all()) for kept in watch.kept[:-1] for k in kept.values())


def test_keep_one_prunes_nothing() -> None:
    bnet = new()
    fit(bnet, bp.Cubic(keep=1.0, every=1), epochs=2)
    assert kept_fraction(bnet) == 1.0


def test_two_to_four_holds_whatever_the_budget() -> None:
    bnet = new(bp.SparseVD(bp.NM(2, 4)))
    fit(bnet, bp.Cubic(keep=0.9, every=2), epochs=3)
    for posterior in bnet.posteriors.values():
        runs = posterior.entries().reshape(posterior.layout.shape[0], -1, 4).sum(-1)
        assert int(runs.max()) <= 2
    assert kept_fraction(bnet) == 0.5


# --- nothing grows back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.filterwarnings("ignore:nothing of")
def test_kept_only_shrinks(pattern: str) -> None:
    watch = fit(new(bp.Gaussian(PATTERNS[pattern])), bp.Cubic(keep=0.2, every=2), epochs=8)
    for before, after in pairwise(watch.kept):
        for name in before:
            assert not bool((after[name] & ~before[name]).any())
    assert not bool(watch.kept[-1]["0.weight"].all())


@pytest.mark.parametrize("keep", [0.05, 0.2, 0.8])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_masks_are_a_subset_of_what_was_kept(keep: float) -> None:
    bnet = new(bp.SparseVD(bp.Block(2, 2)))
    fit(bnet, bp.Cubic(keep=0.3, every=2), epochs=5)
    for masks in (bp.masks(bnet, keep=keep), bp.masks(bnet, snr=0.0), bp.masks(bnet, keep=keep, scope="layer")):
        for name, posterior in bnet.posteriors.items():
            assert not bool((masks[name] & ~posterior.entries()).any())
    chosen = bp.masks(bnet, keep=1.0)
    assert all(torch.equal(chosen[n], p.entries()) for n, p in bnet.posteriors.items())


METHODS: dict[str, bp.Method] = {
    "sparse_vd": bp.SparseVD(bp.Block(2, 2)),
    "gaussian": bp.Gaussian(),
    "gaussian_two_scales": bp.Gaussian(bp.Channel(0), prior=bp.TwoScales()),
    "deterministic": bp.Deterministic(),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_pruned_weights_have_no_gradient_no_memory_and_do_not_move(method: str, optimizer: str) -> None:
    bnet = new(METHODS[method])
    saliency = magnitude if method == "deterministic" else bp.snr
    cubic = bp.Cubic(keep=0.3, every=2, saliency=saliency)
    frozen: dict[str, Tensor] = {}
    checked = 0

    class Check(bp.Callback):
        def on_step(self, run: Run) -> None:
            nonlocal checked
            for name, posterior in run.bnet.posteriors.items():
                gone = ~posterior.entries()
                for leaf, parameter in posterior.named_parameters():
                    memory = [m for m in run.optimizer.state[parameter].values() if m.shape == parameter.shape]
                    assert len(memory) == (2 if optimizer == "adam" else 1)
                    for m in memory:
                        assert bool((m[gone] == 0).all())
                        assert bool((m[~gone] != 0).any()) or not bool((~gone).any())
                    key = f"{name}.{leaf}"
                    if key in frozen:
                        still = frozen[key].isfinite()
                        assert torch.equal(parameter.detach()[still], frozen[key][still])
                        assert parameter.grad is not None
                        assert bool((parameter.grad[still] == 0).all())
                        checked += int(still.sum())
                    frozen[key] = torch.where(gone, parameter.detach(), math.nan)

    def sgd(groups: list[dict[str, object]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, momentum=0.9)

    model, loader = bp.classify(bnet, N), list(zip(*(t.split(16) for t in data()), strict=True))
    make = None if optimizer == "adam" else sgd
    bp.fit(
        model,
        bnet.guide,
        loader,
        epochs=8,
        lr=0.01,
        optimizer=make,
        prune=cubic,
        callbacks=[Check()],
        seed=0,
        progress=False,
    )
    assert checked > 0
    assert kept_fraction(bnet) == pytest.approx(0.3, abs=largest_group(bnet))


def test_a_layer_that_a_schedule_empties_is_a_warning_that_names_it() -> None:
    bnet = new(bp.SparseVD(bp.Channel(0)))
    with torch.no_grad():
        bnet.posteriors["2.weight"].get_parameter("loc").zero_()  # nothing there to keep
    with pytest.warns(bp.EmptyLayerWarning, match=r"nothing of '2\.weight' is kept after step 5 of 40") as caught:
        fit(bnet, bp.Cubic(keep=0.5, every=5, end=0.2))
    assert len([w for w in caught if w.category is bp.EmptyLayerWarning]) == 1  # once, not at every pruning
    assert kept_fraction(bnet) == pytest.approx(0.5, abs=largest_group(bnet))


def test_run_prune_forgets_moments_by_entry_and_by_group() -> None:
    bnet = new(bp.SparseVD(bp.Channel(0)))
    posterior = bnet.posteriors["0.weight"]
    optimizer = torch.optim.Adam(bnet.parameters())
    for parameter in bnet.parameters():
        optimizer.state[parameter] = {"step": torch.tensor(3.0), "exp_avg": torch.ones_like(parameter)}
    run = Run(bnet, optimizer, steps=10)
    kept = torch.arange(8) % 2 == 0
    run.prune({"0.weight": kept})
    assert torch.equal(posterior.kept, kept)
    memory = optimizer.state[posterior.get_parameter("loc")]
    assert torch.equal(memory["exp_avg"], kept[:, None].expand(8, 12).float())
    assert memory["step"] == 3.0
    untouched = optimizer.state[bnet.posteriors["2.weight"].get_parameter("loc")]
    assert bool((untouched["exp_avg"] == 1).all())


def test_what_is_pruned_is_noise_and_what_is_kept_is_signal() -> None:
    """Inputs 0 and 1 alone decide the label: their columns outlive the others."""
    torch.manual_seed(0)
    x = torch.randn(256, 12)
    y = (x[:, 0] + x[:, 1] > 0).long()
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(12, 2)), {"0.weight": bp.SparseVD(bp.Channel(1))})
    prune = bp.Cubic(keep=2 / 12, every=5, start=0.3)
    bp.fit(bp.classify(bnet, 256), bnet.guide, [(x, y)], epochs=80, lr=0.05, prune=prune, seed=0, progress=False)
    assert bnet.posteriors["0.weight"].kept.nonzero().flatten().tolist() == [0, 1]
    assert bool((bnet.means()["0.weight"][:, 2:] == 0).all())


BAD = {
    "keep 0": ({"keep": 0.0}, r"keep.*\(0, 1\].*0\.0"),
    "keep above 1": ({"keep": 1.5}, r"keep.*\(0, 1\].*1\.5"),
    "keep negative": ({"keep": -0.1}, r"keep.*-0\.1"),
    "keep nan": ({"keep": math.nan}, "keep.*nan"),
    "start after end": ({"keep": 0.5, "start": 0.8, "end": 0.5}, r"start=0\.8, end=0\.5"),
    "start below 0": ({"keep": 0.5, "start": -0.1}, r"start=-0\.1"),
    "end above 1": ({"keep": 0.5, "end": 1.1}, r"end=1\.1"),
    "every 0": ({"keep": 0.5, "every": 0}, "every.*0"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_schedules_are_errors(what: str) -> None:
    arguments, words = BAD[what]
    with pytest.raises(ValueError, match=words):
        bp.Cubic(**arguments)  # type: ignore[arg-type]


def test_optimiser_memory_goes_by_the_parameters_name_not_by_its_shape() -> None:
    """A free parameter whose shape is the mask's keeps its memory."""

    class WithExtra(type(bp.SparseVD().posterior(Weight("w", torch.ones(3, 3), bp.Unstructured())))):  # type: ignore[misc]
        def __init__(self, weight: Weight, method: bp.SparseVD) -> None:
            super().__init__(weight, method)
            self.rotation = torch.nn.Parameter(torch.eye(3))

    class Method(bp.SparseVD):
        def posterior(self, weight: Weight) -> bp.Posterior:
            return WithExtra(weight, self)

    bnet = bp.BayesianNet(torch.nn.Sequential(torch.nn.Linear(3, 3)), {"0.weight": Method()})
    optimizer = torch.optim.Adam(bnet.parameters())
    for parameter in bnet.parameters():
        optimizer.state[parameter] = {"exp_avg": torch.ones_like(parameter)}
    Run(bnet, optimizer, steps=1).prune({"0.weight": torch.eye(3, dtype=torch.bool)})
    posterior = bnet.posteriors["0.weight"]
    memory = {leaf: optimizer.state[p]["exp_avg"] for leaf, p in posterior.named_parameters()}
    assert torch.equal(memory["loc"], torch.eye(3))
    assert torch.equal(memory["log_scale"], torch.eye(3))
    assert torch.equal(memory["rotation"], torch.ones(3, 3))
