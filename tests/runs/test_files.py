"""Data named as files and folders: what comes out is what lies there, and what cannot be is refused by name."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support.command import inside

from bayesprune.runs.files import read
from bayesprune.runs.recipe import Recipe
from bayesprune.runs.sources import find_data

COLOURS = ["blue", "green", "red"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path):
    with inside(tmp_path):
        yield tmp_path


def table(rows: int = 60) -> pd.DataFrame:
    g = np.random.default_rng(0)
    area = g.normal(100, 20, rows)
    frame = {"area": area, "rooms": g.integers(1, 5, rows), "colour": g.choice(COLOURS, rows)}
    return pd.DataFrame(
        {**frame, "price": 1000 * area + g.normal(0, 10, rows), "kind": ["flat", "house"] * (rows // 2)}
    )


def test_a_table_of_numbers_is_standardised_by_its_training_part() -> None:
    frame = table()
    frame.to_csv("houses.csv", index=False)
    splits = read("csv:houses.csv,target=price,test=20%,val=0.1")
    parts = (splits.train, splits.val, splits.test)
    assert [len(part) for part in parts] == [42, 6, 12] and splits.classes == ()
    x, y = splits.train.tensors
    assert x.dtype == y.dtype == torch.float32 and x.shape == (42, 1 + 1 + 3 + 2) and y.shape == (42, 1)
    assert torch.allclose(x.mean(0), torch.zeros(7), atol=1e-5) and torch.allclose(
        y.std(unbiased=False), torch.ones(())
    )
    price = torch.cat([splits.in_target_units(part.tensors[1]) for part in parts]).flatten().sort().values
    assert torch.allclose(price, torch.tensor(np.sort(frame["price"].to_numpy()), dtype=torch.float32), rtol=1e-5)
    raw = torch.cat([part.tensors[0] for part in parts]) * torch.tensor(splits.x_scale) + torch.tensor(splits.x_mean)
    assert torch.allclose(raw[:, 0].sort().values, torch.tensor(np.sort(frame["area"])).float(), rtol=1e-5)
    words = raw[:, 2:5].round()
    assert torch.equal(words.sum(1), torch.ones(60)) and words.sum(0).tolist() == [
        float((frame["colour"] == name).sum()) for name in COLOURS
    ]


def test_words_and_few_whole_numbers_are_classes() -> None:
    table().to_csv("houses.csv", index=False)
    by_word = read("csv:houses.csv")
    assert by_word.classes == ("flat", "house") and by_word.train.tensors[1].dtype == torch.int64
    assert by_word.train.tensors[1].bincount().tolist() == [21, 21]
    assert read("csv:houses.csv,target=rooms").classes == ("1", "2", "3", "4")
    assert read("csv:houses.csv,target=rooms,task=numbers").classes == ()
    assert read("csv:houses.csv").train.tensors[0].equal(by_word.train.tensors[0])
    assert not read("csv:houses.csv,seed=1").train.tensors[0].equal(by_word.train.tensors[0])


def folder_of_pictures(root: Path, size: Callable[[int], int] = lambda _: 8, each: int = 10) -> None:
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (size(i), size(i)), (100 * label, 255, i)).save(root / name / f"{i}.png")


def test_a_folder_a_class() -> None:
    folder_of_pictures(Path("pets"))
    splits = read("images:pets")
    assert splits.classes == ("cat", "dog")
    x, y = splits.train.tensors
    assert x.shape == (14, 3, 8, 8) and len(splits.val) == 2 and len(splits.test) == 4
    assert torch.allclose(x[:, 0, 0, 0], y * 100 / 255) and bool((x[:, 1] == 1).all())
    assert read("images:pets,size=4,mode=grey").train.tensors[0].shape == (14, 1, 4, 4)


def test_parts_of_pictures_are_taken_as_they_are() -> None:
    for part, each in (("train", 5), ("test", 3)):
        folder_of_pictures(Path("pets") / part, each=each)
    splits = read("images:pets")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (10, 0, 6)
    assert find_data("images:pets", 4).val is None


def test_arrays_of_numpy() -> None:
    x, y = np.arange(80, dtype=np.uint8).reshape(20, 4), np.arange(20) % 2
    np.savez("one.npz", x=x, y=y)
    splits = read("npz:one.npz")
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [14, 2, 4]
    rows, labels = splits.train.tensors
    assert torch.equal((rows[:, 0] * 255 / 4).round().long() % 2, labels)
    np.savez("parts.npz", x_train=x[:12] / 1.0, y_train=y[:12] / 2, x_test=x[12:] / 1.0, y_test=y[12:] / 2)
    splits = read("npz:parts.npz")
    assert splits.test.tensors[0].equal(torch.tensor(x[12:]).float())
    assert splits.test.tensors[1].equal(torch.tensor(y[12:] / 2).float()[:, None])
    assert not find_data("npz:parts.npz", 4).classifies


def test_a_saved_dataset_of_hugging_face() -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"input_ids": [[i, 1, 2] for i in range(20)], "text": ["a"] * 20, "label": [i % 2 for i in range(20)]}
    data = datasets.Dataset.from_dict(rows)
    data.save_to_disk("whole")
    found = find_data("hf:whole", 4)
    batch = next(iter(found.train))
    assert set(batch) == {"input_ids", "labels"} and batch["input_ids"].shape == (4, 3)
    assert torch.equal(batch["input_ids"][:, 0] % 2, batch["labels"])
    assert found.size == 14 and found.classifies
    datasets.DatasetDict(train=data, test=data).save_to_disk("parts")
    assert find_data("hf:parts", 4).val is None
    rows["input_ids"][0] = [0]
    datasets.Dataset.from_dict(rows).save_to_disk("ragged")
    with pytest.raises(ValueError, match="'input_ids' holds rows of different lengths"):
        find_data("hf:ragged", 4)
    with pytest.raises(ValueError, match="no column 'y'; they are input_ids, text, label"):
        read("hf:whole,target=y")


def test_a_file_is_no_module_and_needs_no_trust() -> None:
    for data in ("csv:a.csv", "images:a", "npz:a.npz", "hf:a", "uci:yacht"):
        Recipe(net="vit", data=data).check_trusted("run/")
    with pytest.raises(ValueError, match="--trust"):
        Recipe(net="vit", data="mine:csv").check_trusted("run/")


def spoilt(**columns: object) -> None:
    pd.DataFrame({**table(), **columns}).to_csv("houses.csv", index=False)


REFUSED: dict[str, tuple[str, Callable[[], object], str]] = {
    "no file": ("csv:nowhere.csv", lambda: None, "there is no file 'nowhere.csv'"),
    "no path": ("csv:", lambda: None, "csv:path"),
    "no option": ("csv:houses.csv,targt=price", lambda: None, "did you mean target?"),
    "no column": ("csv:houses.csv,target=prize", spoilt, "no column 'prize'; did you mean price?"),
    "empty cells": ("csv:houses.csv", lambda: spoilt(area=[1.0, None] * 30), "30 of 'area'"),
    "names": ("csv:houses.csv", lambda: spoilt(colour=[str(i) + "x" for i in range(60)]), "60 different words"),
    "infinity": ("csv:houses.csv", lambda: spoilt(area=[1.0, float("inf")] * 30), "infinite numbers"),
    "a rare class": ("csv:houses.csv", lambda: spoilt(kind=["a"] * 59 + ["b"]), "'b' has 1 rows"),
    "one price": ("csv:houses.csv,target=price", lambda: spoilt(price=1.5), "is 1.5 in every row"),
    "words as numbers": ("csv:houses.csv,task=numbers", spoilt, "holds words"),
    "no split": ("csv:houses.csv,test=0.6,val=0.5", spoilt, "leave nothing to train on"),
    "fraction": ("csv:houses.csv,test=2", spoilt, "test=2: a fraction in"),
    "no folder": ("images:nowhere", lambda: None, "there is no folder 'nowhere'"),
    "one class": ("images:pets", lambda: (Path("pets/cat")).mkdir(parents=True), "expected two or more folders"),
    "sizes": ("images:pets", lambda: folder_of_pictures(Path("pets"), lambda i: 8 + i), "say size=32"),
    "no picture": (
        "images:pets",
        lambda: (folder_of_pictures(Path("pets")), Path("pets/cat/0.png").write_bytes(b"no")),
        "0.png cannot be read as a picture",
    ),
    "lengths": ("npz:a.npz", lambda: np.savez("a.npz", x=np.ones((3, 2)), y=np.ones(4)), "do not go together"),
    "names of arrays": ("npz:a.npz", lambda: np.savez("a.npz", z=np.ones(3)), "holds z: expected x and y"),
    "objects": ("npz:a.npz", lambda: np.savez("a.npz", x=np.array([{}]), y=np.ones(1)), "holds no arrays of numpy"),
    "a pickle": ("npz:a.npz", lambda: Path("a.npz").write_bytes(pickle.dumps({})), "holds no arrays of numpy"),
    "below 0": ("npz:a.npz", lambda: np.savez("a.npz", x=np.ones((9, 2)), y=np.arange(9) - 1), "there is -1"),
    "NaN": ("npz:a.npz", lambda: np.savez("a.npz", x=np.ones((9, 2)), y=np.full(9, np.nan)), "9 targets are NaN"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_and_named(case: str) -> None:
    text, make, says = REFUSED[case]
    make()
    with pytest.raises((ValueError, FileNotFoundError), match=None) as raised:
        find_data(text, 4)
    assert says in str(raised.value) and "\n" not in str(raised.value)
