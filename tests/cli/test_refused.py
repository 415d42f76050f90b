"""A fit that cannot be answers in one line that says what to type instead, and writes nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import FIT, MINE, inside, refused


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "mine.py").write_text(MINE)
    with inside(tmp_path):
        yield tmp_path


BAD_FITS = {
    "nothing said": ((), "--net lenet_300_100 --data mnist"),
    "unknown net": (("--net", "lenet", "--data", "digits"), "did you mean lenet_300_100 or lenet_5_caffe?"),
    "unknown data": (("--net", "lenet_300_100", "--data", "digit"), "did you mean digits?"),
    "wrong inputs": (("--net", "lenet_300_100", "--data", "digits"), "lenet_300_100(inputs=64)"),
    "arguments": (("--net", "mlp(3)", "--data", "digits"), "missing a required argument"),
    "no call": (("--net", "mlp(3", "--data", "digits"), "never closed"),
    "an expression": (("--net", "mlp(open('x'))", "--data", "digits"), "'open' is no literal"),
    "no module": (("--net", "nowhere:net", "--data", "digits"), "no module 'nowhere'"),
    "no attribute": (("--net", "mine:made", "--data", "digits"), "module 'mine' has no net 'made'"),
    "own fault": (("--net", "mine:broken", "--data", "digits"), "ZeroDivisionError: division by zero (mine.py, line"),
    "own forward": (("--net", "mine:Stubborn", "--data", "mine:classes"), "does not take inputs of shape (4,)"),
    "a dict": (("--net", "mine:Wrapped(kind='dict')", "--data", "mine:classes"), "returns a dict, and a run needs one"),
    "a tuple": (("--net", "mine:Wrapped(kind='tuple')", "--data", "mine:classes"), "returns a tuple"),
    "a list": (("--net", "mine:Wrapped(kind='list')", "--data", "mine:classes"), "returns a list"),
    "one number": (("--net", "mine:Wrapped(kind='scalar')", "--data", "mine:classes"), "one row an example"),
    "NaN": (
        ("--net", "mine:Wrapped(kind='nan')", "--data", "mine:classes"),
        "gives NaN or infinity on the first batch",
    ),
    "an error of two lines": (("--net", "mine:Wrapped(kind='raises')", "--data", "mine:classes"), "(first line)"),
    "half of the rows": (("--net", "mine:Wrapped(kind='half')", "--data", "mine:classes"), "do not fit"),
    "one number for reals": (("--net", "mine:Wrapped(kind='scalar')", "--data", "mine:reals"), "one row an example"),
    "nothing": (("--net", "mine:Wrapped(kind='none')", "--data", "mine:classes"), "returns a NoneType"),
    "one axis more": (("--net", "mine:Wrapped(kind='deep')", "--data", "mine:classes"), "do not fit"),
    "one-hot": (("--net", "mine:make", "--data", "mine:onehot"), "and targets of shape (48, 3) do not fit"),
    "no net": (("--net", "mine:SCALES", "--data", "digits"), "cannot be called"),
    "no data": (("--net", "mine:make", "--data", "mine:make"), "(train, test)"),
    "rule": ((*FIT[1:], "--rule", "fc1.weight=SparseVd()"), "did you mean SparseVD?"),
    "rule's glob": ((*FIT[1:], "--rule", "fc9=SparseVD()"), "matches no parameter"),
    "rule's pattern": ((*FIT[1:], "--rule", "fc1.weight=SparseVD(Block(99, 1))"), "larger than a weight"),
    "rule without =": ((*FIT[1:], "--rule", "fc1.weight"), "fc*.weight=SparseVD(Block(16, 16))"),
    "rule as code": ((*FIT[1:], "--rule", "fc1.weight=__import__('os').abort()"), "neither a literal nor a call"),
    "prune": ((*FIT[1:], "--prune", "Cubic(keep=2)"), "(0, 1]"),
    "epochs": ((*FIT[1:], "--epochs", "0"), "epochs is a number ≥ 1"),
    "lr": ((*FIT[1:], "--lr", "nan"), "lr is a learning rate > 0"),
    "seed": ((*FIT[1:], "--seed", "-1"), "seed is a number from 0"),
    "precision": ((*FIT[1:], "--precision", "fp8"), "no, bf16"),
    "estimator": ((*FIT[1:], "--estimator", "best"), "local, weight, flipout"),
    "device": ((*FIT[1:], "--device", "tpu9"), "tpu9"),
    "start": ((*FIT[1:], "--start", "nowhere.pt"), "there is no checkpoint"),
    "start, no state": ((*FIT[1:], "--start", "mine.py"), "torch.save(net.state_dict(), path)"),
    "recipe": (("nowhere.toml",), "there is no recipe 'nowhere.toml'"),
    "recipe, a folder": (((".",)), "recipe.toml"),
    "recipe, no TOML": ((("mine.py",)), "mine.py: "),
    "option": (("--nett", "x"), "No such option: --nett"),
}


@pytest.mark.parametrize("case", BAD_FITS)
def test_a_fit_that_cannot_be_is_refused_before_anything_is_written(here: Path, case: str) -> None:
    args, says = BAD_FITS[case]
    assert says in refused("fit", *args)
    assert not (here / "run").exists()


def test_missing_data_say_what_to_put_where(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAYESPRUNE_DATA", str(here / "nowhere"))
    assert "BAYESPRUNE_DATA" in refused("fit", "--net", "lenet_300_100", "--data", "mnist")
