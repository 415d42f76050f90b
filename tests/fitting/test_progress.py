"""What a fit shows: a bar that moves each step on a terminal, a line an epoch elsewhere, nothing where nobody asks."""

import re
from typing import Any

import pytest
import rich.console
import torch
from rich.progress import Progress
from torch import nn

import bayesprune as bp
from bayesprune.fitting.progress import _Bar
from bayesprune.tables import as_text

X, Y = torch.randn(48, 6, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3


def fit(*callbacks: bp.Callback, **kwargs: Any) -> bp.History:
    torch.manual_seed(0)
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(6, 3)), {"*.weight": bp.SparseVD()})
    batches = list(zip(X.split(12), Y.split(12), strict=True))
    return bp.fit(bp.classify(bnet), batches, epochs=2, seed=0, callbacks=callbacks, **kwargs)


@pytest.mark.parametrize("progress", [None, True])
def test_without_a_terminal_there_is_a_line_an_epoch(progress: bool | None, capsys: pytest.CaptureFixture[str]) -> None:
    history = fit(progress=progress, val=(X, Y))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert not out and len(lines) == 2
    for i, (line, epoch) in enumerate(zip(lines, history.epochs, strict=True)):
        assert re.match(rf"epoch {i + 1}/2  NLL {epoch.nll:.3f}  KL .*  kept 100\.0%  val NLL .* s$", line), line


def test_nothing_is_shown_where_nobody_asks(capsys: pytest.CaptureFixture[str]) -> None:
    fit(progress=False)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    fit()
    err = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "8/8" in err and "NLL" in err and "epoch 1/2" not in err


def test_the_bar_moves_at_each_step() -> None:
    bar = Progress(disable=True)
    seen: list[float] = []

    class Look(bp.Callback):
        def on_step(self, run: bp.Run) -> None:
            seen.append(bar.tasks[0].completed)

    fit(_Bar(bar), Look(), progress=False)
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8] and bar.tasks[0].total == 8


def test_text_is_text_in_jupyter_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """There rich shows what it is to print: ``str`` of a report was empty, and the report stood on the page twice."""
    shown: list[Any] = []
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda *given: shown.append(given))
    assert as_text("two words", 40) == "two words"
    assert shown == []


def test_objects_read_well() -> None:
    torch.manual_seed(0)
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)), {"*.weight": bp.SparseVD(bp.Block(2, 1))})
    bp.classify(bnet)
    bnet.prune({"0.weight": torch.eye(2, 6, dtype=torch.bool)})
    text = repr(bnet)
    assert text.startswith("BayesianNet(Sequential: 2 weights with a posterior, 2 parameters without, Categorical")
    assert re.search(r"0\.weight  4×6  SparseVD\(.*Block.*\)  kept 16\.67%", text) and "1.weight  3×4" in text
    found = bp.predict(bnet, (X, Y), draws=4)
    assert repr(found) == "Prediction(48 examples, 4 draws: mean (48, 3), with targets)"
    assert repr(bp.predict(bnet, X, draws=4)).endswith("no targets)")
