"""``bp.sparsify``: a trained net in, a sparse one judged and packed out; the task is guessed and said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune import data, nets
from bayesprune.likelihoods.guessed import guessed


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Any, bp.Sparsified]:
    splits = data.digits()
    torch.manual_seed(0)
    net = nets.lenet_300_100(inputs=64)
    dense = bp.BayesianNet(net, {})
    bp.fit(bp.classify(dense), splits.train, epochs=10, lr=3e-3, seed=0, progress=False)
    dense.write_into(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = bp.sparsify(net, splits.train, splits.test, keep=0.05, epochs=20, lr=4e-3, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    return net, splits, made


def test_the_sparse_net_errs_about_as_the_dense_control(digits: tuple[nn.Module, Any, bp.Sparsified]) -> None:
    _, _, made = digits
    rows = {row.role.name: row for row in made.report.models}
    assert rows["PRUNED"].kept == pytest.approx(0.05, abs=1e-3)
    assert rows["PRUNED"].score.error < rows["CONTROL"].score.error + 0.03
    assert rows["CONTROL"].score.error < 0.06
    assert rows["PRUNED"].score.error < rows["ONE_SHOT"].score.error
    assert len(made.history.epochs) == 20 and made.task == "class labels, 10 classes"


def test_the_result_is_saved_loaded_and_shown(digits: tuple[nn.Module, Any, bp.Sparsified], tmp_path: Path) -> None:
    _, splits, made = digits
    x = splits.test.tensors[0]
    expected = made.bnet.run({**made.bnet.means()}, x)
    packed = made.export()
    torch.testing.assert_close(packed(x), expected, atol=1e-4, rtol=1e-4)
    for compress in (False, True):
        made.save(tmp_path / "net", compress=compress)
        loaded = bp.load(tmp_path / "net")
        assert float((loaded(x).argmax(-1) != packed(x).argmax(-1)).float().mean()) < 0.03
    assert str(made) == repr(made) == str(made.report) and "dense control" in str(made)
    assert made._repr_html_() == made.report._repr_html_()


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


X = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
Y = X[:, :1] - X[:, 1:2]


@pytest.mark.parametrize("form", ["tensors", "a data set", "a loader"])
def test_data_come_in_any_form_and_the_task_is_said(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = TensorDataset(X, Y)
    given: Any = {"tensors": (X, Y), "a data set": whole, "a loader": DataLoader(whole, batch_size=16)}[form]
    made = bp.sparsify(small(), given, given, keep=0.5, epochs=2, control=False)
    assert "targets for real numbers; likelihood= says otherwise" in capsys.readouterr().err
    assert isinstance(made.bnet.observation, bp.likelihoods.Normal)
    assert sorted(made.masks) == ["0.weight", "2.weight"]
    assert made.history.epochs[-1].kept == pytest.approx(0.5, abs=0.05)


def test_the_likelihood_and_the_rules_can_be_said() -> None:
    made = bp.sparsify(
        small(),
        (X, Y.round().abs().long()),
        (X, Y.round().abs().long()),
        keep=0.5,
        likelihood=bp.likelihoods.Poisson(),
        rules={"0.weight": bp.ARD()},
        epochs=1,
        control=False,
        progress=False,
    )
    assert isinstance(made.bnet.observation, bp.likelihoods.Poisson) and list(made.masks) == ["0.weight"]


LOGITS = torch.zeros(6, 3)
MARKS = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
SHARES = torch.full((6, 3), 1 / 3)
GUESSES: dict[str, tuple[Any, Tensor, str, str]] = {
    "classes": (LOGITS, torch.tensor([0, 2, 1, 1, 0, 2]), "Categorical", "class labels, 3 classes"),
    "two classes": (torch.zeros(6, 2), torch.tensor([0, 1, 1, 1, 0, 0]), "Categorical", "class labels, 2 classes"),
    "classes of a dict": ({"logits": LOGITS}, torch.tensor([0, 2, 1, 1, 0, 2]), "Categorical", "class labels, 3"),
    "tokens": (torch.zeros(6, 5, 3), torch.zeros(6, 5).long(), "Categorical", "class labels, 3"),
    "pixels": (torch.zeros(6, 3, 5, 4), torch.zeros(6, 5, 4).long(), "Categorical", "of each position, 3 classes"),
    "shares": (LOGITS, SHARES, "Categorical", "probabilities of 3 classes"),
    "labels": (LOGITS, MARKS, "Bernoulli", "3 labels, each there or not"),
    "labels as floats": (LOGITS, MARKS.float(), "Bernoulli", "3 labels"),
    "a label": (torch.zeros(6, 1), torch.tensor([0, 1, 1, 0, 1, 0]), "Bernoulli", "a label, 0 or 1"),
    "a number": (torch.zeros(6, 1), torch.randn(6), "Normal", "real numbers"),
    "numbers": (LOGITS, torch.randn(6, 3), "Normal", "real numbers, 3 an example"),
}


@pytest.mark.parametrize("kind", GUESSES)
def test_the_task_is_guessed_from_output_and_targets(kind: str) -> None:
    output, y, family, words = GUESSES[kind]
    likelihood, task = guessed(output, y)
    assert type(likelihood).__name__ == family and words in task
    raw = output["logits"] if isinstance(output, dict) else output
    taken = likelihood.take(raw)
    assert likelihood.log_prob(taken, likelihood.check(taken, y)).shape == (6,)


OPEN: dict[str, tuple[Tensor, Any, str]] = {
    "one-hot": (LOGITS, torch.eye(3).repeat(2, 1), r"single 1 a row.*Categorical\(\) or"),
    "counts": (torch.zeros(6, 1), torch.arange(6), r"up to 5.*Poisson\(\)"),
    "another shape": (LOGITS, torch.randn(6, 2), r"shape \(6, 2\).*outputs of shape \(6, 3\): say"),
    "several": (LOGITS, {"a": MARKS}, "got dict: say"),
}


@pytest.mark.parametrize("kind", OPEN)
def test_what_may_be_two_things_is_asked_for(kind: str) -> None:
    output, y, words = OPEN[kind]
    with pytest.raises(ValueError, match=words):
        guessed(output, y)


def test_a_net_that_cannot_be_sparsified_is_a_clear_error() -> None:
    with pytest.raises(TypeError, match=r"takes a trained nn\.Module, got str"):
        bp.sparsify("net", X, X)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no weight of two or more axes"):
        bp.sparsify(small().requires_grad_(False), (X, Y), (X, Y))
    with pytest.raises(ValueError, match=r"keep.*got 5"):
        bp.sparsify(small(), (X, Y), (X, Y), keep=5)
