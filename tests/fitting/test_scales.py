"""Data of a scale or type that a fit suffers from are told of before the first step; others are not."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y, LABELS = X[:, :1] + 0.1, torch.arange(40) % 3


class AtOnce(bp.Callback):
    """Ends the run before anything is learned from."""

    def on_gradient(self, run: bp.Run) -> None:
        raise KeyboardInterrupt


def fit(data: Any, outputs: int = 1, net: nn.Module | None = None, **kwargs: Any) -> None:
    bnet = bp.BayesianNet(net or nn.Sequential(nn.Linear(3, outputs)), {"*.weight": bp.SparseVD()})
    model = bp.regress(bnet) if outputs == 1 else bp.classify(bnet)
    bp.fit(model, data, epochs=1, callbacks=[AtOnce()], progress=False, **kwargs)


def loader(x: Tensor, y: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, y), batch_size=8)


class Casts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.float())


TOLD: dict[str, tuple[Callable[[], None], str]] = {
    "columns decades apart": (
        lambda: fit((X * torch.tensor([1e-2, 1.0, 1e4]), Y)),
        r"columns of the inputs have ranges from .* to .*Standardise them, x = \(x - mean\) / sd",
    ),
    "targets of a large sd": (lambda: fit((X, 77 * Y)), r"targets have mean .* deviation 7\d.*y = \(y - mean\) / sd"),
    "targets of a small sd": (lambda: fit((X, 0.01 * Y)), r"standard deviation 0\.0"),
    "targets far off": (lambda: fit((X, Y + 1900)), r"mean 1\.9e\+03"),
    "targets in a loader": (lambda: fit(loader(X, 77 * Y)), "targets have mean"),
    "targets in a list": (lambda: fit([(X, Y), (X, 300 * Y)]), "targets have mean"),
    "doubles": (lambda: fit((X.double(), Y), net=Casts()), r"inputs are float64.*x\.float\(\)"),
}


@pytest.mark.parametrize("kind", TOLD)
def test_a_scale_that_hurts_is_told_with_what_to_do(kind: str) -> None:
    do, words = TOLD[kind]
    with pytest.warns(bp.ScaleWarning, match=words):
        do()


FINE: dict[str, Callable[[], None]] = {
    "standardised": lambda: fit((X, Y)),
    "a constant column": lambda: fit((X * torch.tensor([1.0, 0.0, 1.0]), Y)),
    "decades, but not four": lambda: fit((X * torch.tensor([1e-1, 1.0, 1e2]), Y)),
    "labels, whatever their number": lambda: fit((X, LABELS), 3),
    "doubles for a net of doubles": lambda: fit((X.double(), Y.double()), net=nn.Sequential(nn.Linear(3, 1).double())),
    "one example": lambda: fit((X[:1], Y[:1])),
}


@pytest.mark.parametrize("kind", FINE)
def test_other_data_are_taken_without_a_word(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", bp.ScaleWarning)
        FINE[kind]()


@pytest.mark.parametrize("form", ["a loader", "a list", "a data set"])
def test_classes_that_outnumber_the_outputs_are_found_before_the_first_step(form: str) -> None:
    labels = torch.cat([LABELS[:32] % 2, torch.full((8,), 4)])
    given: dict[str, Any] = {
        "a loader": loader(X, labels),
        "a list": list(zip(X.split(8), labels.split(8), strict=True)),
        "a data set": TensorDataset(X.repeat(4, 1), torch.cat([LABELS.repeat(4)[:159] % 2, torch.tensor([4])])),
    }
    with pytest.raises(ValueError, match=r"0…2 for 3 logits, (and the data hold 4: give|got 0…4)") as raised:
        fit(given[form], 3)  # the data set is shuffled: its last example may come first
    assert "Trace Shapes" not in str(raised.value)


def test_labels_that_count_for_nothing_are_no_class() -> None:
    labels = torch.cat([LABELS[:32], torch.full((8,), 255)])
    bnet = bp.BayesianNet(nn.Sequential(nn.Linear(3, 3)), {"0.weight": bp.SparseVD()})
    bp.fit(bp.classify(bnet, ignore_index=255), loader(X, labels), epochs=1, progress=False)
