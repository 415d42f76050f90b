"""The command line, run in this process."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bayesprune.cli import main

FIT = ("fit", "--net", "mlp(64, (20,), 10)", "--data", "digits", "--batch", "64", "--lr", "0.01")
MINE = '''
from dataclasses import dataclass

import torch
from bayesprune.methods import SparseVD
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

NET = nn.Sequential(nn.Linear(4, 3))
SCALES = []

@dataclass(frozen=True)
class Mine(SparseVD):
    """A method of one's own."""

def score(bnet):
    return {name: mean.square() for name, mean in bnet.means().items() if name in bnet.methods}

class Stubborn(nn.Module):
    def forward(self, x):
        raise KeyError("no")

def make(width=3):
    return nn.Sequential(nn.Linear(4, width))

def broken():
    return 1 / 0

def batches(targets):
    g = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(48, 4, generator=g), targets(g))

def classes():
    found = batches(lambda g: torch.randint(0, 3, (48,), generator=g))
    return DataLoader(found, 16, shuffle=True), DataLoader(found, 16)

def reals():
    found = batches(lambda g: torch.randn(48, 3, generator=g))
    return found, found, found

class Wrapped(nn.Module):
    def __init__(self, kind=dict):
        super().__init__()
        self.fc, self.kind = nn.Linear(4, 3), kind
    def forward(self, x):
        y = self.fc(x)
        if self.kind == "scalar":
            return y.sum()
        if self.kind == "nan":
            return y * float("nan")
        if self.kind == "raises":
            raise RuntimeError("first line\\nsecond line")
        if self.kind == "half":
            return y[: len(y) // 2]
        if self.kind == "list":
            return [y]
        return {"dict": {"scores": y}, "tuple": (y, x), "none": None, "deep": y[:, None]}[self.kind]

def onehot():
    found = batches(lambda g: torch.eye(3)[torch.randint(0, 3, (48,), generator=g)].long())
    return found, found

def names():
    return nn.ModuleDict({"task[0]": nn.Linear(4, 4), "a=b": nn.Linear(4, 3)})

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.h = names()
    def forward(self, x):
        return self.h["a=b"](self.h["task[0]"](x).relu())

class Impatient:
    """Someone presses Ctrl-C in the third epoch."""
    passes = 0
    def __len__(self):
        return 3
    def __iter__(self):
        Impatient.passes += 1
        if Impatient.passes == 6:  # three for the checks of shapes and sizes
            raise KeyboardInterrupt
        return iter(DataLoader(batches(lambda g: torch.randint(0, 3, (48,), generator=g)), 16))

def impatient():
    return Impatient(), classes()[1]
'''


@dataclass(frozen=True)
class Done:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


def bayesprune(*args: str) -> Done:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["bayesprune", *args]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exit:
            main()
    finally:
        sys.argv = before
    return Done(int(exit.value.code or 0), out.getvalue(), err.getvalue())


def refused(*args: str) -> str:
    """The one line with which a command is refused."""
    done = bayesprune(*args)
    assert done.code == 2, (done.out, done.err)
    assert done.out == ""
    lines = [line for line in done.err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("bayesprune: "), done.err
    return lines[0]


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[Path]:
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)
        sys.path[:] = path
        sys.modules.pop("mine", None)
