"""The contract table of likelihoods: a line for each kind of input of training code, with a net and data for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import likelihoods as of

N, INPUTS, CLASSES = 48, 6, 3
_G = torch.Generator().manual_seed(7)
X = torch.randn(N, INPUTS, generator=_G)
LABELS = (X @ torch.randn(INPUTS, CLASSES, generator=_G)).argmax(-1)
REAL = X[:, :1] * 0.8 + 0.1 * torch.randn(N, 1, generator=_G)
COUNTS = torch.poisson((0.6 * X[:, :2]).exp(), generator=_G)
POSITIVE = (0.5 * X[:, :2] + 0.2 * torch.randn(N, 2, generator=_G)).exp()
MARKS = (X[:, :4] + 0.3 * torch.randn(N, 4, generator=_G) > 0).float()
IMAGES = torch.randn(N, 2, 4, 4, generator=_G)
PIXELS = (IMAGES[:, 0] > 0).long() + (IMAGES[:, 1] > 0.5).long()
WORDS = torch.randint(0, 9, (N, 5), generator=_G)
TAGS = WORDS % CLASSES


def ignoring(y: Tensor, ignored: int) -> Tensor:
    """``y`` with every third label ignored, and all of the first example's."""
    y = y.clone()
    y.view(-1)[::3] = ignored
    y[0] = ignored
    return y


class Output(dict):
    """What Hugging Face's nets return: a mapping with attributes."""

    __getattr__ = dict.__getitem__


class Tagger(nn.Module):
    """Words to a class each, with a mask, as Hugging Face's nets take and give them."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.e, self.fc = nn.Embedding(9, 8), nn.Linear(8, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Output:
        e = self.e(input_ids)
        return Output(logits=self.fc(e if attention_mask is None else e * attention_mask[..., None]))


class Heads(nn.Module):
    """Several outputs, by name or in order."""

    def __init__(self, named: bool, **sizes: int) -> None:
        super().__init__()
        self.named, self.fc = named, nn.Linear(INPUTS, 8)
        self.heads = nn.ModuleDict({name: nn.Linear(8, size) for name, size in sizes.items()})

    def forward(self, x: Tensor) -> Any:
        h = self.fc(x).relu()
        found = {name: head(h) for name, head in self.heads.items()}
        return found if self.named else tuple(found.values())


class Two(nn.Module):
    """A net of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(INPUTS, CLASSES)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.fc(a + b)


def mlp(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, 8), nn.ReLU(), nn.Linear(8, outputs))


def detection(output: dict[str, Tensor], y: dict[str, Tensor]) -> Tensor:
    """A detector's loss: which box there is, and where."""
    kind = F.cross_entropy(output["kind"], y["kind"], reduction="none")
    return kind + F.smooth_l1_loss(output["box"], y["box"], reduction="none").sum(-1)


def split(*parts: Any) -> list[Any]:
    """Batches of 16 and 32 examples of what is given: ``(x, y)``, tuples, or dicts."""

    def cut(part: Any, a: int, b: int) -> Any:
        if isinstance(part, dict):
            return {name: cut(of, a, b) for name, of in part.items()}
        return tuple(cut(of, a, b) for of in part) if isinstance(part, tuple) else part[a:b]

    batches = [tuple(cut(part, a, b) for part in parts) for a, b in ((0, 16), (16, N))]
    return [batch[0] if len(parts) == 1 else batch for batch in batches]


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Args:
        net: makes the net.
        likelihood: makes the likelihood.
        batches: all of the data, in two batches.
        torchs: from the net's raw output on all of the data, the summed loss by torch's own functions.
        figure: which figure the report judges by.
        observations: how many observations the data hold.
        lacks: groups of ArviZ that are not there.
    """

    net: Callable[[], nn.Module]
    likelihood: Callable[[], of.Likelihood]
    batches: list[Any]
    torchs: Callable[[Any], Tensor]
    figure: str
    observations: int = N
    lacks: frozenset[str] = field(default_factory=frozenset)


ROUND = torch.tensor([1.0, 2.0, 0.5])
SOFT = F.one_hot(LABELS, CLASSES) * 0.7 + 0.1
VOID = ignoring(PIXELS, 255)
PARTLY = ignoring(TAGS, -100)
PART_MARKS = ignoring(MARKS.long(), -1)
GIVEN = {"input_ids": WORDS, "attention_mask": (WORDS > 0).float(), "labels": PARTLY}

KINDS: dict[str, Kind] = {
    "labels": Kind(
        lambda: mlp(CLASSES),
        of.Categorical,
        split(X, LABELS),
        lambda out: F.cross_entropy(out, LABELS, reduction="sum"),
        "error",
    ),
    "class weights": Kind(
        lambda: mlp(CLASSES),
        lambda: of.Categorical(weight=ROUND),
        split(X, LABELS),
        lambda out: F.cross_entropy(out, LABELS, ROUND, reduction="sum"),
        "error",
        lacks=frozenset({"sample_stats"}),
    ),
    "label smoothing": Kind(
        lambda: mlp(CLASSES),
        lambda: of.Categorical(label_smoothing=0.1, weight=[1.0, 2.0, 0.5]),
        split(X, LABELS),
        lambda out: F.cross_entropy(out, LABELS, ROUND, label_smoothing=0.1, reduction="sum"),
        "error",
        lacks=frozenset({"sample_stats"}),
    ),
    "soft labels": Kind(
        lambda: mlp(CLASSES),
        of.Categorical,
        split(X, SOFT),
        lambda out: F.cross_entropy(out, SOFT, reduction="sum"),
        "error",
        lacks=frozenset({"sample_stats"}),
    ),
    "a class a pixel, void ones": Kind(
        lambda: nn.Conv2d(2, CLASSES, 1),
        lambda: of.Categorical(class_axis=1, ignore_index=255),
        split(IMAGES, VOID),
        lambda out: F.cross_entropy(out, VOID, ignore_index=255, reduction="sum"),
        "error",
        observations=int((VOID != 255).sum()),
    ),
    "soft labels a pixel": Kind(
        lambda: nn.Conv2d(2, CLASSES, 1),
        lambda: of.Categorical(class_axis=1),
        split(IMAGES, F.one_hot(PIXELS, CLASSES).movedim(-1, 1) * 0.7 + 0.1),
        lambda out: F.cross_entropy(out, F.one_hot(PIXELS, CLASSES).movedim(-1, 1) * 0.7 + 0.1, reduction="sum"),
        "error",
        observations=PIXELS.numel(),
        lacks=frozenset({"sample_stats"}),
    ),
    "Hugging Face": Kind(
        Tagger,
        of.Categorical,
        split(GIVEN),
        lambda out: F.cross_entropy(out.logits.flatten(0, 1), PARTLY.flatten(), reduction="sum"),
        "error",
        observations=int((PARTLY != -100).sum()),
    ),
    "a causal language model": Kind(
        lambda: Tagger(9),
        lambda: of.Categorical(shift=True),
        split({"input_ids": WORDS, "labels": WORDS}),
        lambda out: F.cross_entropy(out.logits[:, :-1].flatten(0, 1), WORDS[:, 1:].flatten(), reduction="sum"),
        "error",
        observations=N * 4,
    ),
    "two inputs": Kind(
        Two,
        of.Categorical,
        split(X, X.flip(0), LABELS),
        lambda out: F.cross_entropy(out, LABELS, reduction="sum"),
        "error",
    ),
    "several labels": Kind(
        lambda: mlp(4),
        of.Bernoulli,
        split(X, MARKS),
        lambda out: F.binary_cross_entropy_with_logits(out, MARKS, reduction="sum"),
        "error",
        observations=N * 4,
    ),
    "several labels, rare ones weighted, some unknown": Kind(
        lambda: mlp(4),
        lambda: of.Bernoulli(pos_weight=[1.0, 2.0, 3.0, 4.0], ignore_index=-1),
        split(X, PART_MARKS),
        lambda out: F.binary_cross_entropy_with_logits(
            out,
            PART_MARKS.clamp_min(0).float(),
            (PART_MARKS >= 0).float(),
            reduction="sum",
            pos_weight=torch.tensor([1.0, 2.0, 3.0, 4.0]),
        ),
        "error",
        observations=int((PART_MARKS >= 0).sum()),
        lacks=frozenset({"sample_stats"}),
    ),
    "one label or none": Kind(
        lambda: mlp(1),
        of.Bernoulli,
        split(X, MARKS[:, 0].bool()),
        lambda out: F.binary_cross_entropy_with_logits(out[:, 0], MARKS[:, 0], reduction="sum"),
        "error",
    ),
    "real": Kind(
        lambda: mlp(1),
        lambda: of.Normal(0.3),
        split(X, REAL),
        lambda out: F.gaussian_nll_loss(out, REAL, torch.full_like(out, 0.09), full=True, reduction="sum"),
        "rmse",
    ),
    "a noise for each": Kind(
        lambda: mlp(4),
        of.Heteroscedastic,
        split(X, X[:, :2]),
        lambda out: F.gaussian_nll_loss(out[:, :2], X[:, :2], out[:, 2:].exp(), full=True, reduction="sum"),
        "rmse",
    ),
    "a noise for each, of a net with two outputs": Kind(
        lambda: Heads(False, mean=1, log_variance=1),
        of.Heteroscedastic,
        split(X, REAL[:, 0]),
        lambda out: F.gaussian_nll_loss(out[0], REAL, out[1].exp(), full=True, reduction="sum"),
        "rmse",
    ),
    "counts": Kind(
        lambda: mlp(2),
        of.Poisson,
        split(X, COUNTS.long()),
        lambda out: F.poisson_nll_loss(out, COUNTS, reduction="sum") + (COUNTS + 1).lgamma().sum(),
        "rmse",
    ),
    "spread counts": Kind(
        lambda: mlp(2),
        lambda: of.NegativeBinomial(2.0),
        split(X, COUNTS),
        lambda out: -torch.distributions.NegativeBinomial(2.0, out.exp() / (out.exp() + 2)).log_prob(COUNTS).sum(),
        "rmse",
    ),
    "positive": Kind(
        lambda: mlp(2),
        lambda: of.Gamma(3.0),
        split(X, POSITIVE),
        lambda out: -torch.distributions.Gamma(torch.tensor(3.0), 3 / out.exp()).log_prob(POSITIVE).sum(),
        "rmse",
    ),
    "positive, by the logarithm": Kind(
        lambda: mlp(2),
        lambda: of.LogNormal(0.4),
        split(X, POSITIVE),
        lambda out: -torch.distributions.LogNormal(out, 0.4).log_prob(POSITIVE).sum(),
        "rmse",
    ),
    "several outputs": Kind(
        lambda: Heads(True, kind=CLASSES, size=1),
        lambda: of.Several({"kind": of.Categorical(), "size": of.Normal(0.5)}),
        split(X, {"kind": LABELS, "size": REAL}),
        lambda out: (
            F.cross_entropy(out["kind"], LABELS, reduction="sum")
            + F.gaussian_nll_loss(out["size"], REAL, torch.full_like(REAL, 0.25), full=True, reduction="sum")
        ),
        "nll",
    ),
    "several outputs in order, of a dict": Kind(
        lambda: Heads(False, start=CLASSES, end=CLASSES),
        lambda: of.Several({"start": of.Categorical(), "end": of.Categorical()}, targets=("from", "to")),
        split({"x": X, "from": LABELS, "to": LABELS.flip(0)}),
        lambda out: (
            F.cross_entropy(out[0], LABELS, reduction="sum") + F.cross_entropy(out[1], LABELS.flip(0), reduction="sum")
        ),
        "nll",
    ),
    "one's own": Kind(
        lambda: mlp(1),
        lambda: bp.likelihood(lambda out, y: F.smooth_l1_loss(out, y, reduction="none").sum(-1)),
        split(X, REAL),
        lambda out: F.smooth_l1_loss(out, REAL, reduction="sum"),
        "nll",
        lacks=frozenset({"posterior_predictive", "observed_data"}),
    ),
    "detection": Kind(
        lambda: Heads(True, kind=CLASSES, box=4),
        lambda: bp.likelihood(detection, mean=lambda out: out["box"]),
        split(X, {"kind": LABELS, "box": X[:, :4]}),
        lambda out: detection(out, {"kind": LABELS, "box": X[:, :4]}).sum(),
        "nll",
        lacks=frozenset({"posterior_predictive", "observed_data"}),
    ),
}
