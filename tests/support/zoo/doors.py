"""The doors of bayesprune, each held against plain torch on one net of the zoo."""

import copy
import zlib
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.layout import layout_of
from bayesprune.network.outputs import output_layers, prunes_outputs
from bayesprune.patterns import PatternError
from support.layers import labels
from support.zoo import ZOO
from support.zoo.truth import apart, call, masked, quiet, results, scrambled

__all__ = ["DOORS", "NEAR", "Subject"]

NEAR = 1e-4  # of the largest output
ROUNDED = 0.25  # the same, where weights were rounded to a few levels
PATTERNS = (bp.Unstructured(), bp.Channel(0), bp.Block(4, 1), bp.Channel(1), bp.Block(2, 2))


class Subject:
    """One net: with a posterior so narrow that its draws are its means, its masks, and the dense net they leave.

    Args:
        name: in the zoo.
        estimator: see :class:`bayesprune.BayesianNet`.
    """

    def __init__(self, name: str, estimator: Any = "local") -> None:
        self.entry, self.seed, self.estimator = ZOO[name], zlib.crc32(name.encode()), estimator
        torch.manual_seed(self.seed)
        self.net = quiet(scrambled(self.entry.make())).train()
        self.inputs = [self.entry.inputs(n) for n in self.entry.batches]

    def patterns(self) -> dict[str, bp.Pattern]:
        """One of the patterns that fit, by weight, in turns."""
        found: dict[str, bp.Pattern] = {}
        outputs = output_layers(self.net).names
        for at, (name, x) in enumerate(self.net.named_parameters()):
            if x.dim() < 2 or not x.requires_grad:
                continue
            for turn in range(len(PATTERNS)):
                pattern = PATTERNS[(self.seed + at + turn) % len(PATTERNS)]
                try:
                    pattern.groups(layout_of(self.net, name))
                except PatternError:
                    continue
                if name in outputs and prunes_outputs(pattern, self.net, name):
                    continue  # it is refused
                found[name] = pattern
                break
        return found

    def bayesian(self, estimator: Any = None) -> bp.BayesianNet:
        rules = {
            name: bp.Gaussian(pattern, init_log_scale=-30.0, clip=(-40.0, 2.0))
            for name, pattern in self.patterns().items()
        }
        return bp.BayesianNet(self.net, rules, estimator=estimator or self.estimator)

    @cached_property
    def fitted(self) -> bp.BayesianNet:
        """After one step of a fit."""
        bnet = self.bayesian()

        def model(x: Any, y: Tensor | None = None) -> None:
            out = torch.cat([t.flatten() for t in results(call(bnet, x)) if t.is_floating_point()])
            pyro.sample("what comes out", dist.Normal(out.float(), 1.0).to_event(1), obs=torch.zeros(out.shape))

        bp.fit(model, bnet.guide, [(self.inputs[0], torch.zeros(1))], epochs=1, seed=0, progress=False)
        return bnet

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        return bp.masks(self.fitted, keep=0.5, scope="layer")

    @cached_property
    def means(self) -> dict[str, Tensor]:
        return self.fitted.means()

    @cached_property
    def dense(self) -> nn.Module:
        return masked(self.net, self.means, self.masks)

    @cached_property
    def exported(self) -> nn.Module:
        return bp.export(self.net, self.means, self.masks, example=self.inputs[0])

    @cached_property
    def small(self) -> bp.Compacted:
        return bp.compact(self.net, self.means, self.channels(), example=self.inputs[0])

    @cached_property
    def small_packed(self) -> nn.Module:
        return bp.export(self.small.net, {}, self.small.masks, example=self.inputs[0])

    def channels(self) -> dict[str, Tensor]:
        """Masks that empty half of the output channels of all layers but the last."""
        generator, found = torch.Generator().manual_seed(self.seed), {}
        for name in list(self.patterns())[:-1]:
            layout = layout_of(self.net, name)
            kept = torch.rand(bp.Channel(0).groups(layout), generator=generator) < 0.5
            kept.view(-1)[0] = True
            found[name] = bp.Channel(0).expand(kept, layout).clone()
        return found

    @torch.no_grad()
    def compare(self, found: Callable[[Any], Any], truth: nn.Module, near: float = NEAR) -> None:
        """Raise ``AssertionError`` where ``found`` is off on one of the batches."""
        for n, x in zip(self.entry.batches, self.inputs, strict=True):
            off = apart(found(x), call(truth, x))
            assert off <= near, f"batch of {n}: {off:.1e} of the largest off"


def _draw(bnet: bp.BayesianNet, x: Any) -> Any:
    with poutine.replay(trace=poutine.trace(bnet.guide).get_trace()):
        return call(bnet, x)


def forward(subject: Subject) -> None:
    """Passes in training mode and their gradients, by each estimator, and what the passes leave in buffers."""
    for estimator in ("local", "weight", "flipout"):
        bnet, dense = subject.bayesian(estimator).train(), copy.deepcopy(subject.net).train()
        for x in (subject.inputs[0], *subject.inputs):  # the first pass counts uses
            bnet.zero_grad(), dense.zero_grad()
            ours, theirs = _draw(bnet, x), call(dense, x)
            assert (off := apart(ours, theirs)) <= NEAR, f"{estimator}: {off:.1e} of the largest off"
            for output in (ours, theirs):
                total = torch.zeros(())
                for t in results(output):
                    if t.is_floating_point():
                        total = total + (t * torch.linspace(-1, 2, t.numel()).view_as(t)).sum()
                total.backward()
            for name, off in _gradients(bnet, dense):
                assert off <= 1e-3, f"{estimator}: the gradient of {name} is {off:.1e} of the largest off"
        means = bnet.means()
        for name, x in dense.named_buffers():
            assert apart(means[name], x) <= NEAR, f"{estimator}: the buffer {name} is off"


def _gradients(bnet: bp.BayesianNet, dense: nn.Module) -> Iterator[tuple[str, float]]:
    truth = {name: p.grad for name, p in dense.named_parameters() if p.grad is not None}
    largest = max((float(g.to_dense().abs().max()) for g in truth.values()), default=0.0)
    for name, _ in dense.named_parameters():
        ours = bnet.posteriors[name].loc if name in bnet.posteriors else bnet._rest.get_parameter(name)
        found, wanted = (torch.zeros(()) if g is None else g.to_dense() for g in (ours.grad, truth.get(name)))
        yield name, float((found - wanted).abs().max() / max(largest, 1e-12))


def fit(subject: Subject) -> None:
    """One step of a fit, which moves what has a gradient and leaves the user's net alone."""
    before = {name: x.clone() for name, x in subject.net.state_dict().items()}
    means = subject.means
    assert all(bool(x.isfinite().all()) for x in means.values() if x.is_floating_point())
    assert any(not torch.equal(means[name], before[name]) for name in subject.patterns())
    assert all(torch.equal(x, before[name]) for name, x in subject.net.state_dict().items())


def masks(subject: Subject) -> None:
    """Half of the groups, each of them whole."""
    patterns = subject.patterns()
    for name, mask in subject.masks.items():
        group = labels(subject.net, name, patterns[name]).broadcast_to(mask.shape).flatten()
        size, kept = torch.bincount(group), torch.bincount(group, mask.flatten().double())
        assert bool(((kept == 0) | (kept == size)).all()), f"{name}: a group is torn"
        assert abs(kept.sum() - 0.5 * mask.numel()) <= size.max(), f"{name}: {kept.sum():.0f} of {mask.numel()} stay"


def export(subject: Subject) -> None:
    subject.compare(lambda x: call(subject.exported, x), subject.dense)


def save(subject: Subject, folder: Path) -> None:
    """Both kinds of files give what was saved; what was rounded once is saved again as it is."""
    exported, path = subject.exported, folder / "net.safetensors"
    bp.save(exported, path)
    loaded = _loaded(path, subject.net)
    subject.compare(lambda x: call(loaded, x), subject.dense)
    bp.save(exported, path, compress=True)
    once = _loaded(path, subject.net)
    subject.compare(lambda x: call(once, x), subject.dense, ROUNDED)
    bp.save(once, path, compress=True)
    twice = _loaded(path, subject.net)
    subject.compare(lambda x: call(twice, x), once, 1e-6)


def _loaded(path: Path, net: nn.Module) -> nn.Module:
    try:
        return bp.load(path)
    except bp.FileError as error:
        assert "this file needs its net" in str(error)
    return bp.load(path, net=copy.deepcopy(net))


def predict(subject: Subject) -> None:
    """Two draws, each of which is the masked dense net; only for nets that return one tensor."""
    bp.regress(subject.fitted, 10)
    for x in subject.inputs:
        with torch.no_grad():
            truth = call(subject.dense, x)
        y = torch.zeros(len(results(truth)[0]))
        found = bp.predict(subject.fitted, [(x, y)], draws=2, masks=subject.masks, seed=0)
        for draw in (*found.draws, found.mean):
            assert (off := apart(draw, truth)) <= NEAR, f"{off:.1e} of the largest off"


def compact(subject: Subject) -> None:
    """The smaller net, and the same packed."""
    dense = masked(subject.net, subject.means, subject.channels())
    subject.compare(lambda x: call(subject.small.net, x), dense)
    subject.compare(lambda x: call(subject.small_packed, x), dense)


def save_compact(subject: Subject, folder: Path) -> None:
    path = folder / "net.safetensors"
    bp.save(subject.small_packed, path)
    loaded = _loaded(path, subject.net)
    subject.compare(lambda x: call(loaded, x), masked(subject.net, subject.means, subject.channels()))


DOORS: dict[str, Callable[..., None]] = {
    "forward": forward,
    "fit": fit,
    "masks": masks,
    "export": export,
    "save": save,
    "predict": predict,
    "compact": compact,
    "save compact": save_compact,
}
