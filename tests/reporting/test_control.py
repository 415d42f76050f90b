"""A report compares with a dense net that was trained as long, and else says by how much the dense net lags."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.evaluation.classification import error
from bayesprune.evaluation.verification import Role

EPOCHS = 6


@pytest.fixture(scope="module")
def task() -> tuple[nn.Module, DataLoader]:
    torch.manual_seed(0)
    x = torch.randn(200, 12)
    y = (x[:, :3] @ torch.randn(3, 4)).argmax(1)
    net = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    return net, DataLoader(TensorDataset(x, y), batch_size=50)


def fitted(task: tuple[nn.Module, DataLoader], rules: dict[str, bp.Method]) -> bp.BayesianNet:
    net, loader = task
    bnet = bp.BayesianNet(net, rules)
    bp.fit(bp.classify(bnet, 200), bnet.guide, loader, epochs=EPOCHS, lr=1e-2, seed=0)
    return bnet


@pytest.fixture(scope="module")
def posterior(task: tuple[nn.Module, DataLoader]) -> bp.BayesianNet:
    return fitted(task, {"*.weight": bp.SparseVD()})


@pytest.fixture(scope="module")
def control(task: tuple[nn.Module, DataLoader]) -> dict[str, torch.Tensor]:
    return fitted(task, {}).means()


def reported(task: tuple[nn.Module, DataLoader], bnet: bp.BayesianNet, **given: object) -> bp.Report:
    return bp.report(bnet, bp.masks(bnet, keep=0.5), task[1], draws=2, seed=0, **given)


def test_error_is_against_the_control(task, posterior, control) -> None:
    net, loader = task
    found = reported(task, posterior, control=control)
    x, y = loader.dataset.tensors
    trained = copy.deepcopy(net).eval()
    trained.load_state_dict(control, strict=False)
    with torch.no_grad():
        expected = error(trained(x).softmax(-1), y)
        start = error(copy.deepcopy(net).eval()(x).softmax(-1), y)
    rows = {row.role: row for row in found.models}
    assert rows[Role.CONTROL].score.error == pytest.approx(expected, abs=1e-9)
    assert rows[Role.DENSE].score.error == pytest.approx(start, abs=1e-9)
    assert expected < start - 0.3  # it did learn
    assert found.verdict.error is not None
    assert found.verdict.error.before == pytest.approx(expected, abs=1e-9)
    assert sum(c.before * c.examples for c in found.classes) == pytest.approx(expected * len(y))
    assert found.to_dict()["verdict"]["against"] == "dense control"
    assert "no control" not in {w.kind for w in found.warnings}
    assert "epochs less" not in str(found)


def test_without_one_it_says_how_far_the_dense_net_lags(task, posterior) -> None:
    found = reported(task, posterior)
    assert found.verdict.behind == posterior.epochs == EPOCHS
    assert next(w.kind for w in found.warnings) == "no control"
    assert found.verdict.error is not None
    assert found.verdict.error.direction < 0  # much better than a net that was not trained: no good news for all that
    line = next(text for text in str(found).splitlines() if " Error " in text)
    assert "lower" in line
    html = found._repr_html_()
    card = html[: html.index(">Error")].rpartition('<li class="')[2]
    assert card.startswith('card"'), "painted as good news"
    assert f"against a dense net of {EPOCHS} epochs less" in html


def test_one_shot_magnitude_cuts_the_control(task, posterior, control) -> None:
    found = {row.role: row.score for row in reported(task, posterior, control=control).models}
    without = {row.role: row.score for row in reported(task, posterior).models}
    assert found[Role.ONE_SHOT].nll < without[Role.ONE_SHOT].nll


def test_a_module_is_as_good_as_its_values(task, posterior, control) -> None:
    net = copy.deepcopy(task[0])
    net.load_state_dict(control, strict=False)
    by_module = reported(task, posterior, control=net).verdict.reference.score
    assert by_module == reported(task, posterior, control=control).verdict.reference.score


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, "its '0.weight' is missing"),
        (nn.Sequential(nn.Linear(3, 2)), r"its '0.weight' has shape \(2, 3\), where the net's has \(32, 12\)"),
    ],
)
def test_another_net_is_refused(task, posterior, wrong, told: str) -> None:
    with pytest.raises(ValueError, match=f"control is the same net trained on: {told}"):
        reported(task, posterior, control=wrong)


def test_epochs_are_counted_over_fits_and_go_with_a_state_dict(task, posterior) -> None:
    other = bp.BayesianNet(task[0], {"*.weight": bp.SparseVD()})
    assert other.epochs == 0
    other.load_state_dict(posterior.state_dict())
    assert other.epochs == EPOCHS
    bp.fit(bp.classify(other, 200), other.guide, task[1], epochs=2, lr=1e-3, seed=0)
    assert other.epochs == EPOCHS + 2
