"""What a likelihood refuses, in one sentence that says what to do."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import likelihoods as of

X = torch.randn(4, 3)
SOFT = torch.full((4, 3), 1 / 3)


class Returns(nn.Module):
    """A net that returns what it is made with, beside its own layer's output."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.fc, self.make = nn.Linear(3, 3), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.fc(x))


def run(likelihood: of.Likelihood, y: Any, make: Callable[[Tensor], Any] = lambda out: out) -> None:
    bnet = bp.BayesianNet(Returns(make), {"fc.weight": bp.Gaussian()})
    bp.supervise(bnet, 4, likelihood)(X, y)


def first_only(out: Tensor) -> Tensor:
    return out[:, None].expand(-1, 5, -1).movedim(-1, 1)  # (4, 3, 5)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "classes first, unsaid": (lambda: run(of.Categorical(), torch.zeros(4, 5).long(), first_only), "say class_axis=1"),
    "soft labels that do not sum to 1": (lambda: run(of.Categorical(), SOFT * 2), "1 in all over the classes"),
    "soft labels below 0": (lambda: run(of.Categorical(), SOFT - torch.tensor([1.0, -1, 0])), "none below 0"),
    "soft labels of another shape": (lambda: run(of.Categorical(), SOFT[:, :2]), r"\(4, 2\) do not go with"),
    "weights for other classes": (
        lambda: run(of.Categorical(weight=[1.0, 2.0]), torch.zeros(4).long()),
        "weight has 2 numbers, and the net's output 3 classes",
    ),
    "a weight below 0": (lambda: of.Categorical(weight=[1.0, -1.0]), "a number ≥ 0 for each class"),
    "smoothing of 1": (lambda: of.Categorical(label_smoothing=1.0), r"share in \[0, 1\)"),
    "a class axis of 2": (lambda: of.Categorical(class_axis=2), "class_axis is -1"),
    "a shift of pixels": (lambda: of.Categorical(class_axis=1, shift=True), "leave class_axis=-1"),
    "a list of labels": (lambda: run(of.Categorical(), [0, 1, 2, 0]), "labels must be a tensor, got list"),
    "marks of 2": (lambda: run(of.Bernoulli(), torch.full((4, 3), 2)), r"labels must lie in \[0, 1\]"),
    "marks of NaN": (lambda: run(of.Bernoulli(), torch.full((4, 3), math.nan)), r"labels must lie in \[0, 1\]"),
    "marks of another shape": (lambda: run(of.Bernoulli(), torch.zeros(4, 2)), "one for each logit"),
    "a pos_weight of 0": (lambda: of.Bernoulli(pos_weight=0.0), "pos_weight holds numbers > 0"),
    "counts of −1": (lambda: run(of.Poisson(), torch.full((4, 3), -1)), "must be counts, 0, 1, 2"),
    "counts of a half": (lambda: run(of.NegativeBinomial(), torch.full((4, 3), 0.5)), "must be counts, 0, 1, 2"),
    "counts of true": (lambda: run(of.Poisson(), torch.ones(4, 3).bool()), "floating point, got torch.bool"),
    "positive ones of 0": (lambda: run(of.Gamma(), torch.zeros(4, 3)), "must be above 0, got 0"),
    "logarithms of −1": (lambda: run(of.LogNormal(), -torch.ones(4, 3)), "must be above 0, got -1"),
    "a shape of 0": (lambda: of.Gamma(0.0), "a number above 0, got 0"),
    "an odd output": (lambda: run(of.Heteroscedastic(), torch.zeros(4, 1)), "all means, then as many log-variances"),
    "a mean without a variance": (
        lambda: run(of.Heteroscedastic(), torch.zeros(4, 3), lambda out: (out,)),
        "a mean and a log-variance of one shape",
    ),
    "a dict without logits": (
        lambda: run(of.Categorical(), torch.zeros(4).long(), lambda out: {"scores": out}),
        r"one tensor here, got dict of scores.*bp\.likelihoods\.Several",
    ),
    "None": (lambda: run(of.Categorical(), torch.zeros(4).long(), lambda out: None), "one tensor here, got NoneType"),
    "one number": (lambda: run(of.Categorical(), torch.zeros(4).long(), lambda out: out.sum()), "one row an example"),
    "an output that is not there": (
        lambda: run(of.Several({"a": of.Normal()}), {"a": X}, lambda out: {"b": out}),
        "the net's output has no 'a': it has 'b'",
    ),
    "too many targets": (
        lambda: run(of.Several({"a": of.Normal()}), (X, X), lambda out: {"a": out}),
        "a tuple in that order, got 2 of them",
    ),
    "no parts": (lambda: of.Several({}), "from the names of outputs to likelihoods"),
    "names for other parts": (lambda: of.Several({"a": of.Normal()}, targets=("b", "c")), "names 2 entries"),
    "a mean loss": (
        lambda: run(bp.likelihood(lambda out, y: (out - y).square().mean()), X),
        r"of shape \(4,\), got \(\): take reduction='none'",
    ),
    "a loss for each number": (
        lambda: run(bp.likelihood(lambda out, y: (out - y).square()), X),
        r"of shape \(4,\), got \(4, 3\).*sum over all axes but the first",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_clear_sentence(what: str) -> None:
    do, words = REFUSED[what]
    with pytest.raises((ValueError, TypeError), match=words):
        do()


def test_a_mapping_without_targets_says_what_it_has() -> None:
    bnet = bp.BayesianNet(Returns(lambda out: out), {"fc.weight": bp.Gaussian()})
    model = bp.classify(bnet, 4)
    with pytest.raises(ValueError, match="has no 'labels', only 'x', 'label'"):
        bp.fit(model, bnet.guide, [{"x": X, "label": torch.zeros(4).long()}], epochs=1)
    assert bp.predict(bnet, [{"x": X}], draws=2).targets is None


def test_labels_that_are_all_ignored_have_no_figures() -> None:
    bnet = bp.BayesianNet(Returns(lambda out: out), {"fc.weight": bp.Gaussian()})
    bp.classify(bnet, 4)
    masks = bp.masks(bnet, keep=0.5)
    with pytest.raises(ValueError, match="nothing to score: every label is ignore_index=-100"):
        bp.report(bnet, masks, [(X, torch.full((4,), -100))])


def test_ones_own_without_a_prediction_says_what_it_lacks() -> None:
    bnet = bp.BayesianNet(Returns(lambda out: {"a": out}), {"fc.weight": bp.Gaussian()})
    bp.supervise(bnet, 4, bp.likelihood(lambda out, y: (out["a"] - y).square().sum(-1)))
    with pytest.raises(ValueError, match=r"say bp\.likelihood\(nll, mean=…\)"):
        bp.predict(bnet, [(X, X)], draws=2)
    with pytest.raises(ValueError, match="no targets"):
        bp.sweep(bnet, [X], keep=[0.5])
    found = bp.to_inference_data(bnet, [(X, X)], draws=2)
    assert found.log_likelihood["y"].shape == (1, 2, 4)


def test_predictions_of_several_outputs_go_by_name() -> None:
    bnet = bp.BayesianNet(Returns(lambda out: (out, out[:, :1])), {"fc.weight": bp.Gaussian()})
    bp.supervise(bnet, 4, of.Several({"kind": of.Categorical(), "size": of.Normal(1.0)}))
    found = bp.predict(bnet, [X], draws=2)
    assert found["kind"].mean.shape == (4, 3) and found["size"].mean.shape == (4, 1)
    with pytest.raises(AttributeError, match=r"take mean of one of them, \['kind', 'size'\]"):
        _ = found.mean
    one = bp.BayesianNet(Returns(lambda out: out), {"fc.weight": bp.Gaussian()})
    bp.classify(one, 4)
    with pytest.raises(TypeError, match="of one output"):
        bp.predict(one, [X], draws=2)["kind"]


def test_learned_numbers_of_two_outputs_are_two_sites() -> None:
    bnet = bp.BayesianNet(Returns(lambda out: (out, out.exp())), {"fc.weight": bp.Gaussian()})
    model = bp.supervise(bnet, 4, of.Several({"a": of.Normal(), "b": of.Gamma()}))
    names = [name for name, _ in model.named_parameters() if "observation" in name]
    assert len(names) == 2
    y = (X, X.exp())
    bp.fit(model, bnet.guide, [(X, y)], epochs=3, lr=0.1, seed=0, progress=False)
    assert all(float(p.detach().abs()) > 1e-3 for name, p in model.named_parameters() if name in names)


class Awkward(nn.Module):
    """Heads, and their outputs, under names that files and sites must escape."""

    def __init__(self) -> None:
        super().__init__()
        self.y = nn.ModuleDict({"weight": nn.Linear(3, 3), "user/item": nn.Linear(3, 1)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: head(x) for name, head in self.y.items()}


def test_outputs_may_be_called_anything(tmp_path: Path) -> None:
    net = Awkward()
    net.y.register_parameter("kind", nn.Parameter(torch.zeros(3)))
    bnet = bp.BayesianNet(net, {"y.*.weight": bp.Gaussian()})
    model = bp.supervise(bnet, 4, of.Several({"weight": of.Categorical(), "user/item": of.Normal(1.0)}))
    y = {"weight": torch.zeros(4).long(), "user/item": X[:, :1]}
    bp.fit(model, bnet.guide, [(X, y)], epochs=2, seed=0, progress=False)
    data = bp.to_inference_data(bnet, [(X, y)], draws=3)
    data.to_netcdf(str(tmp_path / "draws.nc"))
    assert set(data.posterior_predictive.data_vars) == {"y.weight", "y.user%2Fitem"}
    assert {"probs.weight", "mean.user%2Fitem"} == set(data.output.data_vars)
    both = of.Several({"kind": of.Categorical(), "weight": of.Categorical()})
    assert bp.supervise(bnet, 4, both).target == "y_"


def test_corruptions_are_of_images() -> None:
    bnet = bp.BayesianNet(Returns(lambda out: out), {"fc.weight": bp.Gaussian()})
    bp.classify(bnet, 4)
    spoil = {"corruptions": [bp.corruptions.gaussian_noise], "severities": [1]}
    with pytest.raises(ValueError, match=r"corruptions are of images: batches are then \(x, y\).*got dict"):
        bp.sweep(bnet, [{"x": X, "labels": torch.zeros(4).long()}], keep=[0.5], saliencies=[bp.snr], **spoil)


def test_one_label_an_example_has_no_class_names() -> None:
    bnet = bp.BayesianNet(Returns(lambda out: out[:, :1]), {"fc.weight": bp.Gaussian()})
    bp.supervise(bnet, 4, of.Bernoulli())
    with pytest.raises(ValueError, match="there is one label an example"):
        bp.to_inference_data(bnet, [X], draws=2, classes=["no", "yes"])
